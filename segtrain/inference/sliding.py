"""Windows of one size over an image of any size."""

import re
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from segtrain.errors import ConfigError
from segtrain.inference.score_map import ScoreMap
from segtrain.inference.strategy import Forward, Strategy
from segtrain.inference.windows import Blend, Span, spans
from segtrain.types import Area

# The pixels of an area of the images: uint8 [N, C, height, width].
Crop = Callable[[Area], Tensor]


class SlidingWindow(Strategy):
    """Cuts the image into windows that overlap, shows them to the model, and blends the logits where they overlap.

    The last window of each row and column is shifted inward, so that the model sees nothing but image; an image smaller
    than a window is shown whole. Logits are added up in float32, one window after another: what is kept is the logits
    of the image and of `batch_size` windows.

    A window's logits differ from those of the whole image only as far from its border as the model's receptive field
    reaches, and where a window begins at no multiple of the model's stride. Blend `nearest` with an overlap of at least
    the receptive field therefore gives the logits of the whole image (the overlap-tile strategy of U-Net).

    Args:
        size: height and width of a window in pixels.
        stride: from one window to the next, down and to the right, in pixels; None: by `overlap`.
        overlap: part of a window that the next one shares, in [0, 1); None: by `stride`.
        blend: see `spans`.
        sigma: of the gaussian blend's bell, as a part of the window's length, above 0; nnU-Net takes 1/8.
        batch_size: windows shown to the model at once.
        memory: what the process may take while it predicts a picture too large for it, such as `2GiB`; the picture is
            then read, predicted and written in parts. None: every picture is read whole.

    Raises:
        ConfigError: a number is out of its range, or not exactly one of `stride` and `overlap` is set.

    Source: overlap-tile: Ronneberger et al. 2015, arXiv:1505.04597, Figure 2; gaussian: Isensee et al. 2021,
        doi:10.1038/s41592-020-01008-z, supplementary note 4.
    """

    def __init__(
        self,
        size: list[int],
        stride: list[int] | None,
        overlap: float | None,
        blend: Blend,
        sigma: float,
        batch_size: int,
        memory: str | None,
    ) -> None:
        super().__init__()
        if len(size) != 2 or min(size) < 1:
            raise ConfigError(f"size={size}: give a window's height and width in pixels, such as [512, 512]")
        self.height, self.width = size
        self.stride = _stride(size, stride, overlap)
        if sigma <= 0:
            raise ConfigError(
                f"sigma={sigma} is not above 0; 0.125 makes a bell that has fallen to 0.0003 at the border"
            )
        if batch_size < 1:
            raise ConfigError(f"batch_size={batch_size}: show the model at least 1 window at once")
        self.blend: Blend = blend
        self.sigma = sigma
        self.batch_size = batch_size
        self.memory = None if memory is None else parse_bytes(memory)

    def forward(self, forward: Forward, images: Tensor) -> ScoreMap:
        area = Area(0, 0, *images.shape[-2:])
        return ScoreMap(self.logits_of(area, forward, lambda window: images[:, :, window.rows, window.columns], area))

    def logits_of(self, area: Area, forward: Forward, crop: Crop, whole: Area) -> Tensor:
        """The logits of a part of the images: those that the part has in the logits of the whole.

        Args:
            area: the part.
            forward: the model.
            crop: reads windows, which reach beyond `area`.
            whole: the images' own area.

        Returns: [N, num_classes, area.height, area.width] float32.
        """
        rows, columns = self._spans_in(area, whole)
        windows = [(row, column) for row in rows for column in columns]
        total: Tensor | None = None
        for (row, column), logits in self._shown(windows, forward, crop):
            if total is None:
                total = logits.new_zeros(*logits.shape[:2], area.height, area.width)
            _add(total, area, row, column, logits)
        assert total is not None
        return total

    def seen_from(self, area: Area, whole: Area) -> Area:
        """What the windows that count in a part of the images look at."""
        rows, columns = self._spans_in(area, whole)
        return Area(rows[0].start, columns[0].start, rows[-1].stop, columns[-1].stop)

    def spans_over(self, whole: Area) -> tuple[list[Span], list[Span]]:
        """The windows along the height and along the width of images."""
        down, right = self.stride
        return (
            spans(whole.height, self.height, down, self.blend, self.sigma),
            spans(whole.width, self.width, right, self.blend, self.sigma),
        )

    def _spans_in(self, area: Area, whole: Area) -> tuple[list[Span], list[Span]]:
        rows, columns = self.spans_over(whole)
        return (
            [row for row in rows if row.counts_in(area.top, area.bottom)],
            [column for column in columns if column.counts_in(area.left, area.right)],
        )

    def _shown(
        self, windows: list[tuple[Span, Span]], forward: Forward, crop: Crop
    ) -> Iterator[tuple[tuple[Span, Span], Tensor]]:
        """Each window with its logits [N, num_classes, h, w]; the model sees `batch_size` of them at once."""
        images = crop(_area(*windows[0])).shape[0]
        at_once = max(1, self.batch_size // images)
        for first in range(0, len(windows), at_once):
            group = windows[first : first + at_once]
            crops = torch.cat([crop(_area(row, column)) for row, column in group])
            parts = [forward(part).full() for part in crops.split(self.batch_size)]
            logits = parts[0] if len(parts) == 1 else torch.cat(parts)
            yield from zip(group, logits.split(images), strict=True)


def check_memory(strategy: Strategy) -> None:
    """Raises ConfigError where a budget of memory stands at windows inside another strategy, which heeds none."""
    for part in strategy.modules():
        if part is not strategy and isinstance(part, SlidingWindow) and part.memory is not None:
            raise ConfigError(
                "inference.base: memory is heeded by inference=slide alone, whose pictures are predicted in parts; "
                "set it to null here"
            )


def _add(total: Tensor, area: Area, row: Span, column: Span, logits: Tensor) -> None:
    """Adds a window's logits, weighted, to those of `area`."""
    top, bottom = row.overlap(area.top, area.bottom)
    left, right = column.overlap(area.left, area.right)
    inside = slice(top - row.start, bottom - row.start), slice(left - column.start, right - column.start)
    weights = (row.weights[inside[0], None] * column.weights[inside[1]]).to(logits.device)
    part = total[..., top - area.top : bottom - area.top, left - area.left : right - area.left]
    part.addcmul_(logits[..., inside[0], inside[1]].float(), weights)


def _area(row: Span, column: Span) -> Area:
    return Area(row.start, column.start, row.stop, column.stop)


def _stride(size: list[int], stride: list[int] | None, overlap: float | None) -> tuple[int, int]:
    if (stride is None) == (overlap is None):
        raise ConfigError(f"stride={stride} and overlap={overlap}: set one of them, and the other to null")
    if overlap is not None:
        if not 0 <= overlap < 1:
            raise ConfigError(f"overlap={overlap} is outside [0, 1); 0.5 shares half a window with the next")
        stride = [max(1, round(length * (1 - overlap))) for length in size]
    assert stride is not None
    if len(stride) != 2 or not all(1 <= step <= length for step, length in zip(stride, size, strict=True)):
        raise ConfigError(f"stride={stride}: give two numbers, each from 1 to the window's own, size={size}")
    return stride[0], stride[1]


def parse_bytes(text: str) -> int:
    """`2GiB`, `512 MiB`, `1.5GB` or `1000B` as a number of bytes.

    Raises:
        ConfigError: it is none of these.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)(I?)B\s*", text.upper())
    if found is None:
        raise ConfigError(f"memory={text}: write a number and a unit, such as 2GiB or 800MB")
    number, prefix, binary = found.groups()
    return int(float(number) * (1024 if binary else 1000) ** " KMGT".index(prefix or " "))
