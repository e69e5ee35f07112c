"""Convolutions that look further, elsewhere, or cost less."""

# ruff: noqa: RUF001 (multiplication signs are meant)

from collections.abc import Sequence

from model_pictures.canvas import FAINT, INK, PALETTE, Canvas
from model_pictures.diagram import BLUE, GREEN, GRID, ORANGE, PALE, column, enter, join, leave, titled


def deformable() -> Canvas:
    c = titled(
        720,
        292,
        "Deformable convolution: taps that move",
        "a second convolution, started at zero, says where each tap looks (and how much it counts)",
    )
    moves = ((-9, -16), (6, -11), (17, -7), (-15, 4), (3, 5), (22, 9), (-4, 18), (9, 15), (27, 24))
    masks = (0.35, 0.8, 0.6, 0.7, 1.0, 0.95, 0.3, 0.85, 0.5)
    for k, title in enumerate(("plain 3×3", "v1: offsets", "v2: offsets and masks")):
        x, y = 40 + 232 * k, 66
        for i in range(7):
            for j in range(7):
                c.square(x + 26 * j, y + 26 * i, 26, "none", GRID)
        for i in range(9):
            px, py = x + 91 + 26 * (i % 3 - 1), y + 91 + 26 * (i // 3 - 1)
            if k == 0:
                c.dot(px, py, 7, PALE, BLUE)
                continue
            dx, dy = moves[i]
            c.line((px, py), (px + 1.6 * dx, py + 1.6 * dy), color=ORANGE, width=1.4)
            c.dot(px, py, 2.5, BLUE)
            c.dot(px + 1.6 * dx, py + 1.6 * dy, 7 if k == 1 else 3 + 6 * masks[i], PALETTE["atrous"][0], ORANGE)
        c.text(x + 91, 272, title, size=12, bold=True)
    return c


def atrous() -> Canvas:
    c = titled(
        760,
        372,
        "Stride turned into dilation",
        "same weights, same field of view; the strided network's values are every other one of the dilated one's",
    )
    step, left = 36, 170

    def row(y: float, places: Sequence[int], label: str, marked: Sequence[int] = ()) -> None:
        c.text(16, y + 4, label, size=11.5, anchor="start")
        for place in places:
            on = place in marked
            c.dot(left + step * place, y, 7 if on else 5.5, ORANGE if on else PALE, ORANGE if on else BLUE)

    def taps(y: float, target: int, rate: int, below: float) -> None:
        for k in (-1, 0, 1):
            c.line((left + step * target, y), (left + step * (target + k * rate), below), color=INK, width=1.3)

    taps(88, 8, 2, 132)
    for target in (6, 8, 10):
        taps(132, target, 1, 176)
    row(88, range(0, 16, 2), "3 taps, stride 1", (8,))
    row(132, range(0, 16, 2), "3 taps, stride 2", (6, 8, 10))
    row(176, range(16), "input", range(5, 12))
    c.line((16, 206), (744, 206), color=GRID)
    taps(248, 8, 2, 292)
    for target in (6, 8, 10):
        taps(292, target, 1, 336)
    row(248, range(16), "3 taps, rate 2", (8,))
    row(292, range(16), "3 taps, stride 1", (6, 8, 10))
    row(336, range(16), "input", range(5, 12))
    return c


def separable() -> Canvas:
    c = titled(
        720,
        326,
        "Depthwise separable convolution, and Xception's block",
        "space first, each channel by itself; then channels, each pixel by itself",
    )
    for i in range(4):
        x = 40 + 70 * i
        c.square(x, 74, 44, PALE, BLUE)
        c.square(x + 11, 85, 22, PALETTE["decoder"][0], GREEN)
        c.arrow((x + 22, 118), (x + 22, 146))
        c.square(x, 148, 44, PALE, BLUE)
        c.arrow((x + 22, 192), (x + 22, 214), (164, 214), (164, 232), halo=False)
    c.box(64, 234, 200, 26, ("1×1 over all channels",), "encoder", size=11.5)
    c.text(304, 100, "3×3 each", size=11.5, anchor="start", color=FAINT)
    c.text(164, 288, "C → D channels: 9 C + C D weights", size=12, bold=True)
    c.text(164, 306, "instead of 9 C D", size=12, color=FAINT)
    boxes = column(
        c,
        560,
        102,
        [("separable 3×3", "encoder"), ("separable 3×3", "encoder"), ("separable, stride 2", "encoder")],
        width=136,
    )
    start = enter(c, boxes[0], "", 26)
    node = join(c, boxes[-1], "+")
    side = c.box(394, 158, 66, 38, ("1×1", "stride 2"), "encoder", size=11)
    c.arrow(start, (side.top[0], start[1]), side.top, color=GREEN, halo=False)
    c.arrow(side.bottom, (side.bottom[0], node.left[1]), node.left, color=GREEN, halo=False)
    leave(c, node)
    return c


CONVOLUTIONS = {"deformable": deformable, "atrous": atrous, "separable": separable}
