"""Pyramid pooling: a map beside what its halves, thirds and sixths look like."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segtrain.errors import ConfigError
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
        size = min(cells, x.shape[-2]), min(cells, x.shape[-1])
        return F.adaptive_avg_pool2d(x, size) if self.pooling == "average" else F.adaptive_max_pool2d(x, size)
