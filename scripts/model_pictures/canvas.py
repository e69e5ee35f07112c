"""A picture as SVG text: boxes, arrows and words in one palette, on a white sheet that also reads in dark mode."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise

INK, FAINT, LINE = "#1f2933", "#5f6b76", "#8a96a1"
# kind -> (fill, stroke): the same colour means the same thing in every picture.
PALETTE = {
    "data": ("#f3f5f7", "#7b8794"),
    "encoder": ("#dbe9f8", "#2f6fb0"),
    "atrous": ("#fde6cd", "#c26a12"),
    "decoder": ("#d9f1de", "#2b8a48"),
    "head": ("#ebdff7", "#7440ad"),
    "training": ("#ffffff", "#7440ad"),
    "ghost": ("none", "#b3bcc5"),
}
LEGEND = {
    "data": "image",
    "encoder": "backbone",
    "atrous": "dilated convolution",
    "decoder": "decoder, context",
    "head": "class scores",
}

Point = tuple[float, float]


@dataclass(frozen=True)
class Box:
    """A rectangle on the canvas; all numbers in pixels."""

    x: float
    y: float
    width: float
    height: float

    @property
    def left(self) -> Point:
        return self.x, self.y + self.height / 2

    @property
    def right(self) -> Point:
        return self.x + self.width, self.y + self.height / 2

    @property
    def top(self) -> Point:
        return self.x + self.width / 2, self.y

    @property
    def bottom(self) -> Point:
        return self.x + self.width / 2, self.y + self.height


class Canvas:
    """Collects SVG elements: lines, and on top of them boxes and words.

    Args:
        width: of the picture, pixels.
        height: likewise.
        title: what it shows, for those who cannot see it.
    """

    def __init__(self, width: float, height: float, title: str) -> None:
        self.width, self.height, self.title = width, height, title
        self.lines: list[str] = []
        self.elements: list[str] = []

    def text(
        self,
        x: float,
        y: float,
        words: str,
        *,
        size: float = 12,
        anchor: str = "middle",
        bold: bool = False,
        color: str = INK,
    ) -> None:
        """Words with their baseline at y; raises ValueError where they would leave the sheet."""
        width = text_width(words, size, bold)
        start = x - {"start": 0.0, "middle": width / 2, "end": width}[anchor]
        if start < 4 or start + width > self.width - 4 or not size <= y <= self.height - 3:
            raise ValueError(f"{self.title}: {words!r} leaves the sheet")
        weight = ' font-weight="600"' if bold else ""
        self.elements.append(
            f'<text x="{x:g}" y="{y:g}" font-size="{size:g}" text-anchor="{anchor}" fill="{color}"{weight}>'
            f"{escape(words)}</text>"
        )

    def box(
        self, x: float, y: float, width: float, height: float, lines: Sequence[str], kind: str, *, size: float = 12
    ) -> Box:
        """A rounded box with centred lines, the first of two or more bold; raises ValueError where they do not fit."""
        fill, stroke = PALETTE[kind]
        dashed = ' stroke-dasharray="4 3"' if kind in ("training", "ghost") else ""
        self.elements.append(
            f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="5" fill="{fill}" stroke="{stroke}" '
            f'stroke-width="1.4"{dashed}/>'
        )
        spacing = size * 1.2
        for i, line in enumerate(lines):
            bold, line_size = len(lines) > 1 and i == 0, size if i == 0 else size - 1
            if text_width(line, line_size, bold) > width - 4:
                raise ValueError(f"{self.title}: {line!r} does not fit a box of {width:g} pixels")
            baseline = y + height / 2 + size * 0.36 + (i - (len(lines) - 1) / 2) * spacing
            color = FAINT if kind == "ghost" else INK
            self.text(x + width / 2, round(baseline, 1), line, size=line_size, bold=bold, color=color)
        return Box(x, y, width, height)

    def node(self, x: float, y: float, symbol: str, kind: str, radius: float = 10) -> Box:
        """A circle that joins what runs into it: + sum, c concatenation, x product."""
        fill, stroke = PALETTE[kind]
        self.elements.append(
            f'<circle cx="{x:g}" cy="{y:g}" r="{radius:g}" fill="{fill}" stroke="{stroke}" stroke-width="1.4"/>'
        )
        self.text(x, y + 4.5, symbol, size=13, bold=True)
        return Box(x - radius, y - radius, 2 * radius, 2 * radius)

    def arrow(self, *points: Point, color: str = LINE, dashed: bool = False, halo: bool = True) -> None:
        """An arrow through `points`, on a white halo so that crossings read as over and under."""
        line = " ".join(f"{x:g},{y:g}" for x, y in points)
        dash = ' stroke-dasharray="5 4"' if dashed else ""
        marker = f' marker-end="url(#{_marker(color)})"'
        style = 'fill="none" stroke-linejoin="round"'
        if halo and (len(points) > 2 or _length(points) > 60):
            self.lines.append(f'<polyline points="{line}" {style} stroke="#ffffff" stroke-width="5"/>')
        self.lines.append(f'<polyline points="{line}" {style} stroke="{color}" stroke-width="1.6"{dash}{marker}/>')

    def line(self, start: Point, end: Point, *, color: str, width: float = 1, dashed: bool = False) -> None:
        dash = ' stroke-dasharray="2 4"' if dashed else ""
        self.lines.append(
            f'<line x1="{start[0]:g}" y1="{start[1]:g}" x2="{end[0]:g}" y2="{end[1]:g}" stroke="{color}" '
            f'stroke-width="{width:g}"{dash}/>'
        )

    def dot(self, x: float, y: float, radius: float, fill: str, stroke: str | None = None) -> None:
        outline = f' stroke="{stroke}" stroke-width="1.4"' if stroke else ""
        self.elements.append(f'<circle cx="{x:g}" cy="{y:g}" r="{radius:g}" fill="{fill}"{outline}/>')

    def square(
        self, x: float, y: float, side: float, fill: str, stroke: str = "#c9d1d9", height: float | None = None
    ) -> None:
        self.elements.append(
            f'<rect x="{x:g}" y="{y:g}" width="{side:g}" height="{height or side:g}" fill="{fill}" stroke="{stroke}"/>'
        )

    def legend(self, kinds: Sequence[str], x: float, y: float, note: str) -> None:
        """Swatches of `kinds` with what they stand for, then a note."""
        for kind in kinds:
            fill, stroke = PALETTE[kind]
            self.elements.append(
                f'<rect x="{x:g}" y="{y - 9:g}" width="12" height="11" rx="2" fill="{fill}" stroke="{stroke}"/>'
            )
            self.text(x + 17, y, LEGEND[kind], size=11, anchor="start", color=FAINT)
            x += 31 + text_width(LEGEND[kind], 11)
        self.text(self.width - 14, y, note, size=11, anchor="end", color=FAINT)

    def svg(self) -> str:
        colors = {LINE, INK} | {stroke for _, stroke in PALETTE.values()}
        markers = "".join(
            f'<marker id="{_marker(color)}" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
            f'markerUnits="userSpaceOnUse" orient="auto"><path d="M0,0.6 L8,4 L0,7.4 Z" fill="{color}"/></marker>'
            for color in sorted(colors)
            if f"url(#{_marker(color)})" in "".join(self.lines)
        )
        size = f'width="{self.width:g}" height="{self.height:g}" viewBox="0 0 {self.width:g} {self.height:g}"'
        head = [
            f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" font-family="Helvetica, Arial, sans-serif">',
            f"<title>{escape(self.title)}</title>",
            f"<defs>{markers}</defs>",
            f'<rect x="0.5" y="0.5" width="{self.width - 1:g}" height="{self.height - 1:g}" rx="10" fill="#ffffff" '
            'stroke="#d5dbe1"/>',
        ]
        return "\n".join([*head, *self.lines, *self.elements, "</svg>", ""])


def text_width(words: str, size: float, bold: bool = False) -> float:
    """About how many pixels wide words of a sans-serif font are; errs on the wide side."""
    narrow = sum(character in " .,:;il|'()[]-rtfj·" for character in words)
    wide = sum(character.isupper() or character in "mw" for character in words)
    return size * (0.34 * narrow + 0.76 * wide + 0.58 * (len(words) - narrow - wide)) * (1.08 if bold else 1.0)


def _length(points: Sequence[Point]) -> float:
    return sum(abs(a[0] - b[0]) + abs(a[1] - b[1]) for a, b in pairwise(points))


def _marker(color: str) -> str:
    return f"head-{color[1:]}"
