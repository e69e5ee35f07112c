"""Where the windows lie along an axis, and how much each counts at each of its pixels; pure functions.

A window is a product of two spans, one along the height and one along the width, and so is its weight.
"""

import itertools
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Blend = Literal["uniform", "gaussian", "nearest"]


@dataclass(frozen=True)
class Span:
    """A window along one axis.

    Attributes:
        start: its first pixel.
        weights: [length] float32: what it counts at each of its pixels. At every pixel of the axis the weights of all
            spans that cover it add up to 1.
        counts_from: the first pixel of the axis where it counts at all.
        counts_to: the one after the last.
    """

    start: int
    weights: Tensor
    counts_from: int
    counts_to: int

    @property
    def stop(self) -> int:
        return self.start + len(self.weights)

    def overlap(self, start: int, stop: int) -> tuple[int, int]:
        """Where between `start` and `stop` it counts: the first pixel and the one after the last."""
        return max(start, self.counts_from), min(stop, self.counts_to)

    def counts_in(self, start: int, stop: int) -> bool:
        """Whether it counts anywhere between `start` and `stop`."""
        first, end = self.overlap(start, stop)
        return first < end


def window_starts(length: int, window: int, stride: int) -> list[int]:
    """The first pixel of each window along an axis of `length` pixels.

    Windows lie `stride` apart from 0 on; the last one is shifted inward so that it ends with the axis:

        window_starts(10, 4, 3) == [0, 3, 6]
        window_starts(11, 4, 3) == [0, 3, 6, 7]
        window_starts(3, 4, 3) == [0]
    """
    last = max(0, length - window)
    return [*range(0, last, stride), last]


def spans(length: int, window: int, stride: int, blend: Blend, sigma: float) -> list[Span]:
    """The windows along an axis.

    Args:
        length: of the axis in pixels.
        window: of a window; of an axis shorter than that, the one window is as long as the axis.
        stride: from window to window, in [1, window].
        blend: uniform: all windows that cover a pixel count alike. gaussian: by a bell around a window's middle, of
            standard deviation `sigma` times its length. nearest: only the window whose middle is nearest counts.
        sigma: of the bell; unused otherwise.
    """
    window = min(window, length)
    starts = window_starts(length, window, stride)
    if blend == "nearest":
        middles = [(a + b + window) // 2 for a, b in itertools.pairwise(starts)]
        return [
            Span(start, _box(window, first - start, stop - start), first, stop)
            for start, first, stop in zip(starts, [0, *middles], [*middles, length], strict=True)
        ]
    profile = torch.ones(window) if blend == "uniform" else _bell(window, sigma)
    total = torch.zeros(length)
    for start in starts:
        total[start : start + window] += profile
    return [Span(start, profile / total[start : start + window], start, start + window) for start in starts]


def _box(window: int, first: int, stop: int) -> Tensor:
    weights = torch.zeros(window)
    weights[first:stop] = 1.0
    return weights


def _bell(window: int, sigma: float) -> Tensor:
    """[window] highest in the middle, and nowhere 0: at the image's border there is no other window to count."""
    distances = (torch.arange(window) - (window - 1) / 2) / (sigma * window)
    return (-0.5 * distances**2).exp().clamp(min=1e-6)
