"""How a prediction is shown: tinted or outlined, beside its image, with a legend."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from segtrain.report.pictures import (
    FONT_SIZE,
    GAP,
    INK,
    PAPER,
    Labels,
    Palette,
    Picture,
    as_rgb,
    borders,
    colorize,
    overlay,
)

# Of an image's longer side: lines and letters that can be seen when a large photograph is fitted to a screen.
LINE = 1 / 400
LETTERS = 1 / 60


@dataclass(frozen=True)
class Look:
    """How label maps are laid over images.

    Attributes:
        alpha: opacity of the classes' colours, in [0, 1].
        contours: lines in the classes' colours along their borders, in place of a thin white one.
        side_by_side: the image beside it, on the left.
        legend: names and colours of the classes, on the right.
    """

    alpha: float
    contours: bool
    side_by_side: bool
    legend: bool

    def draw(
        self,
        image: NDArray[np.uint8],
        labels: Labels,
        class_names: Sequence[str],
        palette: Palette,
        ignore_index: int,
        all_equal: bool = False,
    ) -> Picture:
        """One [H', W', 3] uint8 picture of an image [H, W, C] and its labels [H, W].

        The legend names the classes that are present. It is as wide as they need, or where `all_equal`, as all classes
        would need: then all pictures of images of one size have one size, as the frames of a film must.
        """
        picture = self.overlay(image, labels, palette, ignore_index)
        if self.side_by_side:
            gap = np.full((picture.shape[0], GAP, 3), PAPER, dtype=np.uint8)
            picture = np.concatenate([as_rgb(image), gap, picture], axis=1)
        if self.legend:
            present = np.unique(labels)
            shown = [i for i in range(len(class_names)) if i in present]
            room = range(len(class_names)) if all_equal else shown
            entries = [(class_names[i], palette[i]) for i in shown]
            size = max(FONT_SIZE, round(LETTERS * max(labels.shape)))
            picture = _with_legend(picture, entries, [class_names[i] for i in room], size)
        return picture

    def overlay(self, image: NDArray[np.uint8], labels: Labels, palette: Palette, ignore_index: int) -> Picture:
        """[H, W, 3] uint8: the image under its colours, or within its contours."""
        if not self.contours:
            return overlay(image, labels, palette, ignore_index, self.alpha)
        picture = overlay(image, labels, palette, ignore_index, self.alpha, outlined=False)
        line = borders(labels, thickness=max(1, round(LINE * max(labels.shape))))
        picture[line] = colorize(labels[line], palette, ignore_index)
        return picture


def _with_legend(
    picture: Picture, entries: Sequence[tuple[str, tuple[int, int, int]]], room_for: Sequence[str], size: int
) -> Picture:
    """The picture with a column of colours and names on its right, or several, where one would be higher.

    Args:
        entries: name and colour.
        room_for: the names that there must be room for.
        size: of the letters, in pixels.
    """
    font, line, gap = ImageFont.load_default(size), size + 10, max(GAP, size // 2)
    height, width = picture.shape[:2]
    rows = max((height - 2 * gap) // line, 1)
    columns = max(-(-len(room_for) // rows), 1)
    cell = size + 2 + gap + max((round(font.getlength(name)) for name in room_for), default=0) + gap
    canvas = Image.new("RGB", (width + gap + columns * cell, max(height, 2 * gap + line)), PAPER)
    canvas.paste(Image.fromarray(picture), (0, 0))
    draw = ImageDraw.Draw(canvas)
    for index, (name, colour) in enumerate(entries):
        column, row = divmod(index, rows)
        left, top = width + gap + column * cell, gap + row * line
        draw.rounded_rectangle((left, top, left + size, top + size), 3, fill=tuple(colour), outline=INK)
        draw.text((left + size + 2 + gap // 2, top + size // 2), name, INK, font, anchor="lm")
    return np.asarray(canvas)
