"""Pooling that rounds sizes up, and that can trade its stride for dilation."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segtrain.nn.anysize import divided_up, is_size_free


class Borders(NamedTuple):
    """Pixels to add on each side, in the order of `torch.nn.functional.pad`; below 0: pixels that no window reads."""

    left: int
    right: int
    top: int
    bottom: int


class Pool2d(nn.Module):
    """Pooling over windows of `kernel_size` pixels, `stride` apart: [N, C, H, W] -> [N, C, ceil(H / s), ceil(W / s)].

    Args:
        kernel_size: of the window.
        stride: between windows.
        padding: pixels by which the first window reaches beyond the border, left and above, less than half a window;
            right and below, as many as the size asks for. What lies outside counts for nothing.

    Attributes:
        dilation: distance between the pixels of a window; 1 until stride is turned into dilation (`nn.dilation`).
    """

    def __init__(self, kernel_size: int, stride: int, padding: int = 0) -> None:
        super().__init__()
        assert 2 * padding < kernel_size, "a window would lie outside more than inside"
        self.kernel_size, self.stride, self.padding = kernel_size, stride, padding
        self.dilation = 1

    def borders(self, x: Tensor) -> Borders:
        """How far the windows reach beyond `x`."""
        before = self.padding * self.dilation
        reach = self.dilation * (self.kernel_size - 1) + 1
        if is_size_free():  # as far as the last window can reach; of a size that asks for less, no window is added
            return Borders(before, reach - 1 - before, before, reach - 1 - before)
        height, width = (
            (divided_up(size, self.stride) - 1) * self.stride + reach - before - size for size in x.shape[-2:]
        )
        return Borders(before, width, before, height)

    def ceil_mode(self, borders: Borders) -> bool | None:
        """With which `ceil_mode` torch's own pooling reads the same windows, without a copy of x; None: with neither.

        torch pads on the right as on the left and, rounding up, lets windows reach up to stride - 1 pixels further. It
        pads by no more than half a window, undilated.
        """
        further = borders.right - borders.left, borders.bottom - borders.top
        if self.dilation > 1 or (is_size_free() and further != (0, 0)):
            return None
        if max(further) <= 0:
            return False
        return True if min(further) >= 0 and max(further) < self.stride else None

    def extra_repr(self) -> str:
        return f"{self.kernel_size}, stride={self.stride}, padding={self.padding}, dilation={self.dilation}"


class MaxPool2d(Pool2d):
    """The largest value in each window."""

    def forward(self, x: Tensor) -> Tensor:
        borders = self.borders(x)
        ceil_mode = self.ceil_mode(borders)
        if ceil_mode is not None:
            return F.max_pool2d(x, self.kernel_size, self.stride, self.padding, ceil_mode=ceil_mode)
        return F.max_pool2d(F.pad(x, borders, value=-torch.inf), self.kernel_size, self.stride, 0, self.dilation)


class AvgPool2d(Pool2d):
    """The mean of each window, over those of its pixels that lie inside."""

    def forward(self, x: Tensor) -> Tensor:
        borders = self.borders(x)
        ceil_mode = self.ceil_mode(borders)
        if ceil_mode is not None:
            return F.avg_pool2d(
                x, self.kernel_size, self.stride, self.padding, ceil_mode=ceil_mode, count_include_pad=False
            )
        sums = self._sums_any_size if is_size_free() else self._sums
        return sums(x, borders) / sums(torch.ones_like(x[:1, :1]), borders)

    def _sums(self, x: Tensor, borders: Borders) -> Tensor:
        """[N, C, H, W] -> the sum of each window, first down, then across: torch's pooling knows no dilation."""
        height, width = ((divided_up(size, self.stride) - 1) * self.stride + 1 for size in x.shape[-2:])
        starts = range(0, self.dilation * self.kernel_size, self.dilation)
        x = F.pad(x, borders)
        x = torch.stack([x[..., start : start + height : self.stride, :] for start in starts]).sum(dim=0)
        return torch.stack([x[..., start : start + width : self.stride] for start in starts]).sum(dim=0)

    def _sums_any_size(self, x: Tensor, borders: Borders) -> Tensor:
        """As `_sums`, by a convolution with ones: strided slices of a size yet unknown cannot be exported."""
        channels = x.shape[1]
        ones = x.new_ones(channels, 1, self.kernel_size, self.kernel_size)
        return F.conv2d(F.pad(x, borders), ones, None, self.stride, 0, self.dilation, channels)


def convert_pooling(module: nn.Module) -> None:
    """Makes every pooling of torch's in `module` one of these, in place; a mean no longer counts what lies outside."""
    for parent in list(module.modules()):
        for name, layer in list(parent.named_children()):
            if isinstance(layer, nn.MaxPool2d | nn.AvgPool2d):
                kind = MaxPool2d if isinstance(layer, nn.MaxPool2d) else AvgPool2d
                setattr(parent, name, kind(_side(layer.kernel_size), _side(layer.stride), _side(layer.padding)))


def _side(length: int | tuple[int, int]) -> int:
    assert isinstance(length, int), f"windows are square, not {length}"
    return length
