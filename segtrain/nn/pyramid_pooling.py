"""Pyramid pooling: a map beside what its halves, thirds and sixths look like."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segtrain.errors import ConfigError
from segtrain.nn.anysize import divided_up, is_size_free
from segtrain.nn.conv import ConvNormAct
from segtrain.nn.resize import resize_to


class PyramidPooling(nn.Module):
    """A map beside itself pooled to a few grids of cells: [N, in_channels, H, W] -> [N, out_channels, H, W].

    Args:
        level_channels: to which a 1x1 convolution, BatchNorm and ReLU bring each pooled map; None: left as it is.
        bins: cells per side of each grid; as many as the map has pixels where these are fewer.
        pooling: of each cell.

    Raises:
        ConfigError: `bins` is empty or has a number below 1.

    Source: Zhao et al. 2017, arXiv:1612.01105, section 3.2, Figure 3.
    """

    def __init__(
        self, in_channels: int, level_channels: int | None, bins: list[int], pooling: Literal["average", "max"]
    ) -> None:
        super().__init__()
        if min(bins, default=0) < 1:
            raise ConfigError(f"model.bins={bins}: give positive numbers of cells per side, such as [1,2,3,6]")
        self.bins, self.pooling = tuple(bins), pooling
        if level_channels is None:
            self.levels = nn.ModuleList(nn.Identity() for _ in bins)
        else:
            self.levels = nn.ModuleList(ConvNormAct(in_channels, level_channels, 1, batch_norm=True) for _ in bins)
        self.out_channels = in_channels + len(bins) * (level_channels or in_channels)

    def forward(self, x: Tensor) -> Tensor:
        pooled = [level(self._pool(x, cells)) for level, cells in zip(self.levels, self.bins, strict=True)]
        return torch.cat([x, *(resize_to(level, x) for level in pooled)], dim=1)

    def _pool(self, x: Tensor, cells: int) -> Tensor:
        # Not finer than the map: pixels repeated add nothing, and a BatchNorm over copies of one has no variance.
        if is_size_free():
            return _pool_any_size(x, cells, self.pooling)
        size = min(cells, x.shape[-2]), min(cells, x.shape[-1])
        return F.adaptive_avg_pool2d(x, size) if self.pooling == "average" else F.adaptive_max_pool2d(x, size)


def _pool_any_size(x: Tensor, cells: int, pooling: Literal["average", "max"]) -> Tensor:
    """What `_pool` computes, in operations that hold for maps of every size; adaptive pooling is recorded for one."""
    rows, columns = _cells(x[0, 0, :, 0], cells), _cells(x[0, 0, 0], cells)
    if pooling == "average":
        rows, columns = (inside / inside.sum(dim=1, keepdim=True) for inside in (rows.to(x.dtype), columns.to(x.dtype)))
        return rows @ x @ columns.T
    x = x[..., None, :, :].masked_fill(~rows[:, :, None], -torch.inf).amax(dim=-2)
    return x[..., None, :].masked_fill(~columns, -torch.inf).amax(dim=-1)


def _cells(line: Tensor, cells: int) -> Tensor:
    """[min(cells, L), L] bool for a line of L pixels: which of them each cell holds.

    Of n cells, cell i begins at pixel floor(i L / n) and ends before ceil((i + 1) L / n).
    """
    pixels = torch.ones_like(line, dtype=torch.int64).cumsum(0) - 1  # not arange, which would record the device
    cell = pixels[:cells, None]
    length, number = line.shape[0], cell.shape[0]
    start, end = cell * length // number, divided_up((cell + 1) * length, number)
    return (pixels >= start) & (pixels < end)
