"""PSPNet: what the whole scene, its halves, thirds and sixths look like, beside what each pixel looks like."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segtrain.backbones.base import Backbone
from segtrain.errors import ConfigError
from segtrain.models.base import SegmentationModel
from segtrain.nn.conv import ConvNormAct
from segtrain.nn.init import he_init
from segtrain.nn.resize import resize_to


class PSPNet(SegmentationModel):
    """Pyramid pooling on the deepest feature, a 3x3 bottleneck, dropout, classifier. Initialised by `he_init`.

    The authors train with an FCN head on stage 4 (`model/aux=fcn`), and over a ResNet whose first convolution is three
    of 3x3; this one runs over any backbone.

    Args:
        bins: the map is pooled to 1x1, 2x2 ... cells; the paper's are 1, 2, 3, 6.
        pooling: of each cell; the paper finds `average` better than `max`.
        reduce: a 1x1 convolution, BatchNorm and ReLU bring each pooled map to 1 / len(bins) of the channels, so that
            all of them weigh as much as the map itself.
        channels: of the bottleneck; the authors' 512.
        dropout: in [0, 1), before the classifier; the authors' 0.1.

    Raises:
        ConfigError: `bins` is empty or has a number below 1; `dropout` out of range.

    Source: Zhao et al. 2017, arXiv:1612.01105, section 3.2, Figure 3; switches: Table 1.
    """

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        bins: list[int],
        pooling: Literal["average", "max"],
        reduce: bool,
        channels: int,
        dropout: float,
    ) -> None:
        super().__init__(backbone, num_classes)
        if not 0 <= dropout < 1:
            raise ConfigError(f"model.dropout={dropout}: must lie in [0, 1)")
        deepest = backbone.deepest.channels
        level_channels = max(1, deepest // len(bins)) if bins and reduce else None
        self.pyramid = PyramidPooling(deepest, level_channels, bins, pooling)
        self.bottleneck = ConvNormAct(self.pyramid.out_channels, channels, batch_norm=True)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Conv2d(channels, num_classes, 1)
        for new in (self.pyramid, self.bottleneck, self.classifier):
            he_init(new)

    def decode(self, features: dict[str, Tensor], size: tuple[int, int]) -> Tensor:
        context = self.bottleneck(self.pyramid(features[self.backbone.deepest.name]))
        logits: Tensor = self.classifier(self.dropout(context))
        return logits


class PyramidPooling(nn.Module):
    """A map beside itself pooled to a few grids of cells: [N, in_channels, H, W] -> [N, out_channels, H, W].

    Args:
        level_channels: to which a 1x1 convolution, BatchNorm and ReLU bring each pooled map; None: left as it is.
        bins: cells per side of each grid; as many as the map has pixels where these are fewer.
        pooling: of each cell.

    Raises:
        ConfigError: `bins` is empty or has a number below 1.
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
