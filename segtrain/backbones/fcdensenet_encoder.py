"""FC-DenseNet's way down and its bottleneck."""

import torch
from torch import Tensor, nn

from segtrain.backbones.base import Backbone
from segtrain.errors import ConfigError
from segtrain.nn.checks import check_positive, check_share
from segtrain.nn.dense import DenseBlock
from segtrain.nn.init import he_init
from segtrain.nn.pooling import MaxPool2d
from segtrain.nn.preactivation import NormActConv
from segtrain.types import Feature


class FCDenseNetEncoder(Backbone):
    """Dense blocks, each stacked on what it read and handed down; the last, the bottleneck, gives its new maps alone.

    Features `block1` (stride 1), `block2` (stride 2), ...: a block's input and its new maps, before the transition
    down; then `bottleneck`, its new maps only. That is the paper's point: a stack upsampled whole would grow all the
    way up, and what the new maps lack, the skips bring. Pooling rounds up. Initialised by `he_init`, uniform.

    Args:
        first_channels: of the 3x3 convolution that the image meets; the paper's is 48.
        growth_rate: new maps of each layer.
        layers: of each dense block, shallow to deep; the last number is the bottleneck's.
        dropout: share of each convolution's values set to zero in training, in [0, 1); the first one has none.

    Raises:
        ConfigError: a number that is not positive; `dropout` out of range.

    Source: Jégou et al. 2017, arXiv:1611.09326, Figure 1, Tables 1 and 2, section 4.1.
    """

    def __init__(
        self, in_channels: int, first_channels: int, growth_rate: int, layers: list[int], dropout: float
    ) -> None:
        check_positive("model.backbone.first_channels", first_channels)
        check_positive("model.backbone.growth_rate", growth_rate)
        if not layers or min(layers) < 1:
            raise ConfigError(f"model.backbone.layers={layers}: give one positive number per dense block")
        check_share("model.backbone.dropout", dropout)
        *above, bottleneck = layers
        blocks, transitions, features = [], [], []
        channels = first_channels
        for i, num_layers in enumerate(above):
            blocks.append(DenseBlock(channels, num_layers, growth_rate, dropout))
            channels += blocks[-1].out_channels
            transitions.append(TransitionDown(channels, dropout))
            features.append(Feature(f"block{i + 1}", channels, 2**i))
        features.append(Feature("bottleneck", bottleneck * growth_rate, 2 ** len(above)))
        super().__init__(in_channels, features)
        self.stem = nn.Conv2d(in_channels, first_channels, 3, padding=1, bias=False)
        self.blocks, self.transitions = nn.ModuleList(blocks), nn.ModuleList(transitions)
        self.bottleneck = DenseBlock(channels, bottleneck, growth_rate, dropout)
        he_init(self, "uniform")

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        x = self.stem(images)
        pyramid: dict[str, Tensor] = {}
        for feature, block, transition in zip(self.features[:-1], self.blocks, self.transitions, strict=True):
            pyramid[feature.name] = stack = torch.cat([x, self.run(block, x)], dim=1)
            x = self.run(transition, stack)
        pyramid[self.deepest.name] = self.run(self.bottleneck, x)
        return pyramid


class TransitionDown(nn.Module):
    """BatchNorm, ReLU, 1x1 convolution, dropout, 2x2 max-pooling: half the size, rounded up, the channels as before."""

    def __init__(self, channels: int, dropout: float) -> None:
        super().__init__()
        self.conv = NormActConv(channels, channels, 1, batch_norm=True, dropout=dropout)
        self.pool = MaxPool2d(2, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.pool(self.conv(x))
        return result
