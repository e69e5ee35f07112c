"""A backbone small enough to see through, and those that have a YAML."""

import pytest
from hydra import compose, initialize_config_module
from hydra.utils import instantiate
from torch import nn

from segtrain.backbones.base import Backbone
from segtrain.nn.conv import ConvNormAct
from segtrain.types import Feature


class TinyBackbone(Backbone):
    """Two stages of one convolution each, strides 2 and 4, with dropout between them."""

    def __init__(self, in_channels=3, dropout=0.0):
        super().__init__(in_channels, [Feature("early", 8, 2), Feature("late", 16, 4)])
        self.early = nn.Sequential(ConvNormAct(in_channels, 8, batch_norm=True, stride=2), nn.Dropout(dropout))
        self.late = nn.Sequential(ConvNormAct(8, 16, batch_norm=True, stride=2))

    def forward(self, images):
        early = self.run(self.early, images)
        return {"early": early, "late": self.run(self.late, early)}


@pytest.fixture
def tiny_backbone():
    return TinyBackbone


@pytest.fixture(scope="session")
def backbone_named():
    """The backbone a YAML describes, for RGB images, some of its options changed."""

    def build(name, **options):
        with initialize_config_module("segtrain.configs", version_base="1.3"):
            node = compose(overrides=[f"+model/backbone={name}"]).model.backbone
        return instantiate(node, in_channels=3, _convert_="all", **options)

    return build
