"""Auxiliary classifiers: logits from the middle of the network, so that a gradient enters there in training."""

import math
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from segtrain.backbones.base import Backbone
from segtrain.errors import ConfigError
from segtrain.nn.checks import check_share
from segtrain.nn.conv import ConvNormAct
from segtrain.nn.init import he_init
from segtrain.types import Feature


@dataclass(frozen=True)
class AuxiliaryOptions:
    """One entry of `model.aux`.

    Attributes:
        feature: of the backbone, or of the decoder, that the head reads, by name; `penultimate`: the backbone's before
            its deepest.
        weight: what its loss counts beside the main one, above 0.
        head: `fcn`, `googlenet` or `linear`; see `FCNAuxiliary`, `GoogLeNetAuxiliary`, `LinearAuxiliary`.
        dropout: in [0, 1), before the last convolution.
    """

    feature: str
    weight: float
    head: Literal["fcn", "googlenet", "linear"]
    dropout: float

    def __post_init__(self) -> None:
        if not 0 < self.weight < math.inf:
            raise ConfigError(f"weight={self.weight}: must be above 0 and finite; leave out a head that counts nothing")
        check_share("dropout", self.dropout)

    def build(self, backbone: Backbone, decoder: Sequence[Feature], num_classes: int) -> "AuxiliaryHead":
        """The head, over a model of `backbone` whose decoder hands out the features `decoder`.

        Raises:
            ConfigError: neither has such a feature.
        """
        kind = {"fcn": FCNAuxiliary, "googlenet": GoogLeNetAuxiliary, "linear": LinearAuxiliary}[self.head]
        return kind(self._find(backbone, decoder), num_classes, self.dropout)

    def _find(self, backbone: Backbone, decoder: Sequence[Feature]) -> Feature:
        by_name = {feature.name: feature for feature in decoder}
        if self.feature in by_name:
            return by_name[self.feature]
        if self.feature != "penultimate":
            try:
                return backbone.feature(self.feature)
            except ConfigError as error:
                raise ConfigError(f"{error}; of the decoder: {', '.join(by_name) or 'none'}") from None
        if len(backbone.features) < 2:
            raise ConfigError(f"feature=penultimate: {type(backbone).__name__} has a single feature")
        return backbone.features[-2]


class AuxiliaryHead(nn.Module):
    """[N, channels, h, w] of `feature` -> [N, num_classes, h', w'], which the model brings to the images' size."""

    def __init__(self, feature: Feature) -> None:
        super().__init__()
        self.feature = feature.name

    def forward(self, x: Tensor) -> Tensor:
        raise NotImplementedError


class FCNAuxiliary(AuxiliaryHead):
    """3x3 convolution to a quarter of the channels, BatchNorm, ReLU, dropout, 1x1: torchvision's `FCNHead`.

    Source: Zhao et al. 2017 (PSPNet), arXiv:1612.01105, section 3.3: on stage 4 of ResNet, weight 0.4.
    """

    def __init__(self, feature: Feature, num_classes: int, dropout: float) -> None:
        super().__init__(feature)
        channels = max(1, feature.channels // 4)
        self.conv = ConvNormAct(feature.channels, channels, batch_norm=True)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Conv2d(channels, num_classes, 1)
        he_init(self)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.dropout(self.conv(x)))
        return logits


class GoogLeNetAuxiliary(AuxiliaryHead):
    """GoogLeNet's side classifier, its fully connected layers made convolutional.

    Average pooling 5x5 of stride 3, 1x1 convolution to 128 channels, ReLU, what was a fully connected layer of 1024
    units over 4x4 positions (a 4x4 convolution), ReLU, dropout (the paper's 0.7), classifier.

    Source: Szegedy et al. 2015, arXiv:1409.4842, section 5: on inception 4a and 4d, weight 0.3 each.
    """

    def __init__(self, feature: Feature, num_classes: int, dropout: float) -> None:
        super().__init__(feature)
        self.layers = nn.Sequential(
            OrderedDict(
                conv=ConvNormAct(feature.channels, 128, 1, batch_norm=False),
                pad=nn.ZeroPad2d((1, 2, 1, 2)),  # a 4x4 window has no middle
                fc=nn.Conv2d(128, 1024, 4),
                act=nn.ReLU(inplace=True),
                dropout=nn.Dropout(dropout),
                classifier=nn.Conv2d(1024, num_classes, 1),
            )
        )
        he_init(self)

    def forward(self, x: Tensor) -> Tensor:
        pooled = F.avg_pool2d(x, 5, stride=3, padding=2, count_include_pad=False)
        logits: Tensor = self.layers(pooled)
        return logits


class LinearAuxiliary(AuxiliaryHead):
    """Dropout and a 1x1 convolution, for maps that are features of the decoder already.

    Source: Isensee et al. 2021 (nnU-Net), Nature Methods 18, on every stage of the decoder but the coarsest.
    """

    def __init__(self, feature: Feature, num_classes: int, dropout: float) -> None:
        super().__init__(feature)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Conv2d(feature.channels, num_classes, 1)
        he_init(self)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.dropout(x))
        return logits
