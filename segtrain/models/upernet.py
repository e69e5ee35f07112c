"""UPerNet: pyramid pooling at the top of a feature pyramid network, all of its levels fused."""

import torch
from torch import Tensor, nn

from segtrain.backbones.base import Backbone
from segtrain.errors import ConfigError
from segtrain.models.base import SegmentationModel
from segtrain.nn.checks import check_positive, check_share
from segtrain.nn.conv import ConvNormAct
from segtrain.nn.init import he_init
from segtrain.nn.pyramid_pooling import PyramidPooling
from segtrain.nn.resize import resize_to


class UPerNet(SegmentationModel):
    """Context from the deepest feature runs down a pyramid; the pyramid's levels are joined at its finest stride.

    The deepest feature of every stride from 4 on is a level. The top one is pyramid pooling and a 3x3 convolution; each
    finer one is a 1x1 convolution of its feature plus the level above, upsampled. After a 3x3 convolution each (not on
    the top), all are upsampled to the finest, concatenated, and fused by a 3x3 convolution; a 1x1 gives the logits.
    Every convolution but the last is followed by BatchNorm and ReLU. Initialised by `he_init`.

    This is the paper's head for objects and parts; its other tasks (scene, material, texture) are left out.

    Args:
        backbone: has features at two strides of 4 or more.
        channels: of every level and of the fused map; the authors' 512. Time and memory of the fusion grow with its
            square.
        bins: cells per side of the grids of the pyramid pooling; 1, 2, 3, 6 are PSPNet's.
        dropout: in [0, 1), before the classifier; the authors have none.

    Raises:
        ConfigError: the backbone has a single stride of 4 or more; `channels`, `bins` or `dropout` out of range.

    Source: Xiao et al. 2018, arXiv:1807.10221, section 3.1, Figure 4.
    """

    def __init__(self, backbone: Backbone, num_classes: int, channels: int, bins: list[int], dropout: float) -> None:
        super().__init__(backbone, num_classes)
        check_positive("model.channels", channels)
        check_share("model.dropout", dropout)
        levels = {feature.stride: feature for feature in backbone.features if feature.stride >= 4}  # deepest of each
        if len(levels) < 2:
            raise ConfigError(
                f"model=upernet joins features of two strides or more, from 4 on; {type(backbone).__name__} has only "
                f"{', '.join(f'{feature.name} (stride {feature.stride})' for feature in backbone.features)}"
            )
        *finer, top = levels.values()
        self.levels = tuple(feature.name for feature in levels.values())
        self.pyramid = PyramidPooling(top.channels, channels, bins, "average")
        self.top = ConvNormAct(self.pyramid.out_channels, channels, batch_norm=True)
        self.laterals = nn.ModuleList(ConvNormAct(f.channels, channels, 1, batch_norm=True) for f in finer)
        self.smooth = nn.ModuleList(ConvNormAct(channels, channels, batch_norm=True) for _ in finer)
        self.fuse = ConvNormAct(len(levels) * channels, channels, batch_norm=True)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Conv2d(channels, num_classes, 1)
        for new in (self.pyramid, self.top, self.laterals, self.smooth, self.fuse, self.classifier):
            he_init(new)

    def decode(self, features: dict[str, Tensor], size: tuple[int, int]) -> Tensor:
        *finer, top = (features[name] for name in self.levels)
        x = self.top(self.pyramid(top))
        levels = [x]
        for lateral, smooth, feature in reversed(list(zip(self.laterals, self.smooth, finer, strict=True))):
            side = lateral(feature)
            x = side + resize_to(x, side)
            levels.append(smooth(x))
        finest = levels[-1]
        fused = self.fuse(torch.cat([resize_to(level, finest) for level in reversed(levels)], dim=1))
        logits: Tensor = self.classifier(self.dropout(fused))
        return logits
