"""DenseNet, as torchvision builds it."""

import re
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import get_model, get_model_weights

from segtrain.backbones.base import Backbone
from segtrain.nn.dilation import hold_output_stride
from segtrain.nn.init import he_init
from segtrain.nn.norm import convert_norm
from segtrain.nn.pooling import convert_pooling
from segtrain.types import Feature
from segtrain.weights import load_weights


class DenseNet(Backbone):
    """torchvision's DenseNet-BC without its classifier, under its parameter names, as child `net`.

    Each layer of a dense block reads what all layers before it gave. Features `stem` (stride 2; before the first
    pooling) and `denseblock1` ... `denseblock4` (4, 8, 16, 32, the last ones held at `output_stride`). A block's output
    is the concatenation of bare convolutions; all that read it begin with BatchNorm and ReLU. The feature is taken
    after those of the transition (after `norm5` and a ReLU, for the last block), before its 1x1 convolution halves the
    channels: activations of one scale, computed anyway (segmentation_models.pytorch does the same but for the last
    ReLU). Initialised by `he_init`, as in torchvision.

    Args:
        in_channels: of the images. Weights made for 3 channels are adapted as `adapt_stem` says.
        name: which DenseNet.
        weights: `imagenet` (torchvision's IMAGENET1K_V1); the path of a state dict in torchvision's names, old
            (`denselayer1.norm.1`) or new, with or without `classifier.*`; or None.
        output_stride: of the deepest feature. At 16 and 8 the average poolings of the last one or two transitions keep
            the size, and the layers after them are dilated (`stride_to_dilation`).
        dilate_strided: the pooling that loses its stride is dilated too: a wider view than the strided network's.

    Raises:
        ConfigError: the output stride is impossible.
        CheckpointError: the weights are missing, damaged, or another network's.

    Source: Huang et al. 2017, arXiv:1608.06993, Table 1.
    """

    def __init__(
        self,
        in_channels: int,
        name: Literal["densenet121", "densenet161", "densenet169", "densenet201"],
        weights: str | None,
        output_stride: Literal[8, 16, 32],
        dilate_strided: bool,
    ) -> None:
        net = get_model(name, weights=None)
        del net.classifier
        layers = net.features
        transitions = [layers.transition1, layers.transition2, layers.transition3]
        widths = [*(transition.norm.num_features for transition in transitions), layers.norm5.num_features]
        blocks = [Feature(f"denseblock{i}", c, min(2 * 2**i, output_stride)) for i, c in enumerate(widths, start=1)]
        super().__init__(in_channels, [Feature("stem", layers.norm0.num_features, 2), *blocks])
        self.net = net
        if in_channels != 3:
            layers.conv0 = nn.Conv2d(in_channels, layers.norm0.num_features, 7, stride=2, padding=3, bias=False)
            he_init(layers.conv0)
        convert_norm(net, "batch")
        convert_pooling(net)
        stages = [
            (8, [layers.transition1, layers.denseblock2]),
            (16, [layers.transition2, layers.denseblock3]),
            (32, [layers.transition3, layers.denseblock4]),
        ]
        hold_output_stride(stages, output_stride, dilate_strided)
        if weights is not None:
            url = get_model_weights(name)["IMAGENET1K_V1"].url
            load_weights(net, weights, url, stem="features.conv0.weight", drop=("classifier.",), rename=_new_name)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        layers = self.net.features
        pyramid = {"stem": layers.relu0(layers.norm0(layers.conv0(images)))}
        x = layers.pool0(pyramid["stem"])
        for i in (1, 2, 3):
            transition = layers.get_submodule(f"transition{i}")
            x = self.run(layers.get_submodule(f"denseblock{i}"), x)
            x = pyramid[f"denseblock{i}"] = transition.relu(transition.norm(x))
            x = transition.pool(transition.conv(x))
        pyramid["denseblock4"] = F.relu(layers.norm5(self.run(layers.denseblock4, x)))
        return pyramid


def _new_name(name: str) -> str:
    """`denselayer1.norm.1.weight`, as in the published files, -> `denselayer1.norm1.weight`."""
    return re.sub(r"(denselayer\d+\.(?:norm|relu|conv))\.([12]\.)", r"\1\2", name)
