"""U-Net's contracting path."""

from torch import Tensor, nn

from segtrain.backbones.base import Backbone
from segtrain.errors import ConfigError
from segtrain.nn.checks import check_share
from segtrain.nn.conv import ConvNormAct
from segtrain.nn.init import he_init
from segtrain.nn.pooling import MaxPool2d
from segtrain.nn.preactivation import ResidualUnit
from segtrain.types import Feature


class UNetEncoder(Backbone):
    """Levels of two 3x3 convolutions, each followed by ReLU, with 2x2 max-pooling between the levels.

    Features `level1` (stride 1), `level2` (stride 2), ... Two departures from the paper: convolutions are padded, so
    that the output is as large as the input, and pooling rounds up, so that any size will do. Initialised by `he_init`.

    Args:
        channels: of each level; the paper's are 64, 128, 256, 512, 1024.
        batch_norm: BatchNorm between convolution and ReLU, not in the paper.
        residual: a level is a `ResidualUnit`, whose first convolution has the stride that pooling would have had: the
            deep residual U-Net, with channels 64, 128, 256, 512 and BatchNorm.
        dropout: share of the deepest level's values set to zero in training, in [0, 1).

    Source: Ronneberger et al. 2015, arXiv:1505.04597, Figure 1 and section 3.1 (drop-out); residual: Zhang et al. 2018,
    arXiv:1711.10684, Figure 2.
    """

    def __init__(self, in_channels: int, channels: list[int], batch_norm: bool, residual: bool, dropout: float) -> None:
        if not channels or min(channels) < 1:
            raise ConfigError(f"model.backbone.channels={channels}: give one positive number per level")
        check_share("model.backbone.dropout", dropout)
        features = [Feature(f"level{i + 1}", width, 2**i) for i, width in enumerate(channels)]
        super().__init__(in_channels, features)
        self.residual = residual
        self.levels = nn.ModuleList()
        for i, (before, width) in enumerate(zip([in_channels, *channels[:-1]], channels, strict=True)):
            self.levels.append(
                ResidualUnit(before, width, batch_norm=batch_norm, stride=2 if i else 1, reads_images=i == 0)
                if residual
                else nn.Sequential(
                    ConvNormAct(before, width, batch_norm=batch_norm),
                    ConvNormAct(width, width, batch_norm=batch_norm),
                )
            )
        self.pool = MaxPool2d(2, stride=2)
        self.dropout = nn.Dropout(dropout)
        he_init(self)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        x = images
        pyramid: dict[str, Tensor] = {}
        for feature, level in zip(self.features, self.levels, strict=True):
            if pyramid and not self.residual:
                x = self.pool(x)
            x = pyramid[feature.name] = self.run(level, x)
        pyramid[self.deepest.name] = self.dropout(x)
        return pyramid
