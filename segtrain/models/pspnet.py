"""PSPNet: what the whole scene, its halves, thirds and sixths look like, beside what each pixel looks like."""

from typing import Literal

from torch import Tensor, nn

from segtrain.backbones.base import Backbone
from segtrain.models.base import SegmentationModel
from segtrain.nn.checks import check_positive, check_share
from segtrain.nn.conv import ConvNormAct
from segtrain.nn.init import he_init
from segtrain.nn.pyramid_pooling import PyramidPooling


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
        ConfigError: `bins` is empty or has a number below 1; `channels` or `dropout` out of range.

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
        check_positive("model.channels", channels)
        check_share("model.dropout", dropout)
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
