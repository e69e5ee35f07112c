"""What the small diagrams are put together from."""

from collections.abc import Sequence

from model_pictures.canvas import FAINT, PALETTE, Box, Canvas, Point

BLUE, ORANGE, GREEN, PURPLE = (PALETTE[kind][1] for kind in ("encoder", "atrous", "decoder", "head"))
PALE, GRID = PALETTE["encoder"][0], "#d5dbe1"


def titled(width: float, height: float, title: str, subtitle: str) -> Canvas:
    c = Canvas(width, height, title)
    c.text(16, 25, title, size=15, anchor="start", bold=True)
    c.text(16, 43, subtitle, size=12, anchor="start", color=FAINT)
    return c


def column(
    c: Canvas, x: float, y: float, labels: Sequence[tuple[str, str]], width: float = 118, step: float = 44
) -> list[Box]:
    """Boxes (label, kind) one below the other around x, joined by arrows."""
    boxes: list[Box] = []
    for i, (label, kind) in enumerate(labels):
        boxes.append(c.box(x - width / 2, y + i * step, width, 26, (label,), kind, size=11.5))
        if i:
            c.arrow(boxes[i - 1].bottom, boxes[i].top)
    return boxes


def join(c: Canvas, last: Box, symbol: str, gap: float = 28) -> Box:
    node = c.node(last.bottom[0], last.bottom[1] + gap, symbol, "decoder")
    c.arrow(last.bottom, node.top)
    return node


def shortcut(c: Canvas, x: float, start: Point, node: Box) -> None:
    """From `start` around the left or right side at x into `node`."""
    end = node.left if x < node.left[0] else node.right
    c.arrow(start, (x, start[1]), (x, end[1]), end, color=GREEN, halo=False)


def enter(c: Canvas, box: Box, label: str = "in", length: float = 22) -> Point:
    """An arrow into the top of `box`; returns the point where a shortcut leaves it."""
    c.arrow((box.top[0], box.y - length), box.top)
    c.text(box.top[0], box.y - length - 4, label, size=11, color=FAINT)
    return box.top[0], box.y - length / 2 - 3


def leave(c: Canvas, node: Box, label: str = "out") -> None:
    c.arrow(node.bottom, (node.bottom[0], node.bottom[1] + 20))
    c.text(node.bottom[0], node.bottom[1] + 33, label, size=11, color=FAINT)
