"""What a model thinks of each class on the way to a label map: scores, beliefs, and beliefs after each refinement.

The figure that the DeepLab papers tell their story with (Chen et al. 2015, arXiv:1412.7062, and 2016, arXiv:1606.00915:
score map, before softmax, and belief map, after it, along the iterations of mean-field inference).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from segtrain.report.pictures import Labels, Picture, overlay
from segtrain.types import DataFacts

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

# In inches.
TILE = 1.9  # longer side of a map
NARROWEST = 0.95  # room for a map, however narrow it is: a title stands above it
GAP = 0.08
LEFT = 1.15  # for the classes' names
TOP = 0.55  # for titles
BOTTOM = 0.6  # for colour bars
DPI = 110

COLOURS = {"score": "RdBu_r", "belief": "viridis"}


@dataclass(frozen=True)
class Stage:
    """One column.

    Attributes:
        kind: score: any number, shown around zero; belief: a probability.
        title: above it.
        maps: [K, h, w], of the classes that are shown.
        top: [h, w], in the row of the whole: the label map at this stage where integer, else the highest belief.
    """

    kind: Literal["score", "belief"]
    title: str
    maps: NDArray[np.floating]
    top: NDArray

    @property
    def nbytes(self) -> int:
        return self.maps.nbytes + self.top.nbytes


@dataclass(frozen=True)
class Story:
    """One figure.

    Attributes:
        image: [h, w, 3] uint8.
        labels: [h, w], what was decided in the end.
        classes: the K that are shown, a row each.
        stages: a column each.
    """

    image: Picture
    labels: Labels
    classes: Sequence[int]
    stages: Sequence[Stage]

    @property
    def nbytes(self) -> int:
        return self.image.nbytes + self.labels.nbytes + sum(stage.nbytes for stage in self.stages)


def save_story(file: IO[bytes], story: Story, facts: DataFacts) -> None:
    """Writes the figure as PNG.

    First row: the image, then at each stage the label map, or the highest belief. Below, a row per class: where it was
    found in the end, over the image, and its map at each stage. All score maps share one colour scale, symmetric about
    zero; all beliefs share 0 to 1.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    sides = story.image.shape[:2]
    height, width = TILE * sides[0] / max(sides), max(TILE * sides[1] / max(sides), NARROWEST)
    rows, columns = len(story.classes) + 1, len(story.stages) + 1
    size = (LEFT + columns * (width + GAP), TOP + rows * (height + GAP) + BOTTOM)
    figure = Figure(figsize=size, dpi=DPI)
    FigureCanvasAgg(figure)

    def tile(row: int, column: int) -> "Axes":
        bottom = size[1] - TOP - (row + 1) * (height + GAP) + GAP
        box = ((LEFT + column * (width + GAP)) / size[0], bottom / size[1], width / size[0], height / size[1])
        axes = figure.add_axes(box, xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
        return axes

    limit = max((float(np.abs(stage.maps).max()) for stage in story.stages if stage.kind == "score"), default=1) or 1
    _show_first_column(tile, story, facts)
    bars = set()
    for column, stage in enumerate(story.stages, start=1):
        axes = tile(0, column)
        axes.set_title(stage.title, fontsize=9)
        whole = np.issubdtype(stage.top.dtype, np.integer)
        if whole:
            axes.imshow(overlay(story.image, stage.top, facts.palette, facts.ignore_index))
        shown = None if whole else axes.imshow(stage.top, cmap=COLOURS["belief"], vmin=0, vmax=1)
        span = (-limit, limit) if stage.kind == "score" else (0, 1)
        for row, values in enumerate(stage.maps, start=1):
            shown = tile(row, column).imshow(
                values.astype(np.float32), cmap=COLOURS[stage.kind], vmin=span[0], vmax=span[1]
            )
        if shown is not None and stage.kind not in bars:
            bars.add(stage.kind)
            _colour_bar(figure, shown, LEFT + column * (width + GAP), width, size)
    figure.savefig(file, format="png")


def _show_first_column(tile, story: Story, facts: DataFacts) -> None:  # type: ignore[no-untyped-def]
    axes = tile(0, 0)
    axes.set_title("image", fontsize=9)
    axes.imshow(story.image)
    beliefs = any(stage.kind == "belief" for stage in story.stages)
    _name_row(axes, "label map or\nhighest belief" if beliefs else "label map")
    for row, index in enumerate(story.classes, start=1):
        axes = tile(row, 0)
        found = np.where(story.labels == index, index, facts.ignore_index)
        axes.imshow(overlay(story.image, found, facts.palette, facts.ignore_index))
        _name_row(axes, facts.class_names[index].replace(" ", "\n").replace("_", "_\n"))  # the margin is narrow


def _name_row(axes: "Axes", name: str) -> None:
    axes.set_ylabel(name, fontsize=9, rotation=0, ha="right", va="center", labelpad=6)


def _colour_bar(figure: "Figure", shown: "AxesImage", left: float, width: float, size: tuple[float, float]) -> None:
    from matplotlib.ticker import MaxNLocator

    axes = figure.add_axes(((left + 0.1 * width) / size[0], 0.32 / size[1], 0.8 * width / size[0], 0.1 / size[1]))
    bar = figure.colorbar(shown, cax=axes, orientation="horizontal")
    bar.ax.tick_params(labelsize=7)
    bar.locator = MaxNLocator(max(2, round(2.2 * width)))  # numbers that do not touch
    bar.update_ticks()
