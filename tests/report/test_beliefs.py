"""The figure of scores and beliefs: how many rows and columns, which colours mean what."""

import io

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from segtrain.report.beliefs import DPI, Stage, Story, save_story
from segtrain.types import DataFacts

FACTS = DataFacts(
    ("sky", "road", "traffic light"), ((0, 0, 200), (200, 0, 0), (0, 90, 0)), 255, 3, (0.5,) * 3, (0.5,) * 3
)


@pytest.fixture
def story() -> Story:
    labels = np.zeros((30, 40), dtype=np.uint8)
    labels[:, 20:] = 2
    score = Stage("score", "score", np.stack([np.full((30, 40), -3.0), np.full((30, 40), 1.0)]), labels)
    belief = Stage("belief", "belief", np.full((2, 30, 40), 0.25), np.full((30, 40), 0.75))
    last = Stage("belief", "iteration 1", np.full((2, 30, 40), 1.0), labels)
    return Story(np.full((30, 40, 3), 100, dtype=np.uint8), labels, [0, 2], [score, belief, last])


def test_the_figure_is_a_png_and_grows_by_rows_and_columns(story: Story) -> None:
    sizes = []
    for classes, stages in (([0, 2], story.stages), ([0], [*story.stages])):
        part = [Stage(s.kind, s.title, s.maps[: len(classes)], s.top) for s in stages]
        file = io.BytesIO()
        save_story(file, Story(story.image, story.labels, classes, part), FACTS)
        sizes.append(Image.open(file).size)
    assert sizes[0][0] == sizes[1][0]
    assert sizes[0][1] - sizes[1][1] == pytest.approx((1.9 * 0.75 + 0.08) * DPI, abs=2)


def test_maps_titles_and_scales_are_those_of_the_stages(story: Story, monkeypatch: pytest.MonkeyPatch) -> None:
    figures: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: figures.append(figure))
    save_story(io.BytesIO(), story, FACTS)
    axes = [axes for axes in figures[0].axes if axes.images]
    assert len(axes) == 3 * 4  # the whole and two classes; the image and three stages
    assert [a.get_title() for a in axes if a.get_title()] == ["image", "score", "belief", "iteration 1"]
    assert [a.get_ylabel() for a in axes if a.get_ylabel()] == ["label map or\nhighest belief", "sky", "traffic\nlight"]
    shown = {(i.get_cmap().name, *i.get_clim()) for a in axes for i in a.images if np.ndim(i.get_array()) == 2}
    assert shown == {("RdBu_r", -3, 3), ("viridis", 0, 1)}  # the largest score either way, over all classes
    bars = [axes for axes in figures[0].axes if not axes.images]
    assert len(bars) == 2


def test_scores_that_are_all_zero_still_have_a_scale(story: Story) -> None:
    flat = Stage("score", "score", np.zeros((2, 30, 40)), story.labels)
    file = io.BytesIO()
    save_story(file, Story(story.image, story.labels, [0, 2], [flat]), FACTS)
    assert Image.open(file).format == "PNG"
