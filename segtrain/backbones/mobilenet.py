"""MobileNetV2 and V3, and what they share with EfficientNet: a chain of inverted residual blocks."""

import math
from collections import OrderedDict
from typing import Literal

from torch import Tensor, nn
from torchvision.models import get_model, get_model_weights

from segtrain.backbones.base import Backbone
from segtrain.nn.dilation import hold_output_stride
from segtrain.nn.norm import convert_norm
from segtrain.types import Feature
from segtrain.weights import load_weights


class InvertedResidualNet(Backbone):
    """The chain `features` of one of torchvision's networks, under torchvision's names as child `net`.

    An inverted residual block widens its map by a 1x1 convolution, filters every channel by itself (3x3 or 5x5, with
    the stride), and narrows it again: the skip joins the narrow maps. torchvision's initialisation: He, fan out.

    Args:
        net: torchvision's, with `features` and `classifier`.
        taps: place in `net.features` -> name of the feature read there, shallow to deep. What follows the last is
            left out.
        weights: `imagenet` for the file at `url`, the path of a state dict in torchvision's names, or None.
        url: None: nobody publishes weights of this network.
        output_stride: of the deepest feature.
        dilate_strided: as in `stride_to_dilation`.

    Raises:
        ConfigError: `output_stride` is none of 8, 16 and 32.
        CheckpointError: the weights are missing, damaged, or another network's.
    """

    def __init__(
        self,
        in_channels: int,
        net: nn.Module,
        taps: dict[int, str],
        weights: str | None,
        url: str | None,
        output_stride: int,
        dilate_strided: bool,
    ) -> None:
        chain, length = net.get_submodule("features"), max(taps) + 1
        assert isinstance(chain, nn.Sequential)
        used = chain[:length]
        convolutions = [[conv for conv in layer.modules() if isinstance(conv, nn.Conv2d)] for layer in used]
        strides, stride = [], 1
        for layer in convolutions:
            stride *= math.prod(conv.stride[0] for conv in layer)
            strides.append(stride)
        super().__init__(
            in_channels,
            [Feature(tap, convolutions[i][-1].out_channels, min(strides[i], output_stride)) for i, tap in taps.items()],
        )
        self.net = nn.Sequential(OrderedDict(features=used))
        self.taps = taps
        if in_channels != 3:
            self.net.set_submodule("features.0.0", _stem(in_channels, convolutions[0][0].out_channels))
        convert_norm(self.net, "batch")
        stages = [(stride, [layer]) for stride, layer in zip(strides, used, strict=True)]
        hold_output_stride(stages, output_stride, dilate_strided)
        if weights is not None:
            left_out = tuple(f"features.{i}." for i in range(length, len(chain)))
            load_weights(self.net, weights, url, stem="features.0.0.weight", drop=("classifier.", *left_out))

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        x = images
        pyramid: dict[str, Tensor] = {}
        for i, layer in enumerate(self.net.get_submodule("features").children()):
            x = self.run(layer, x)
            if i in self.taps:
                pyramid[self.taps[i]] = x
        return pyramid


class MobileNetV2(InvertedResidualNet):
    """MobileNetV2, torchvision's; its bottlenecks are linear: no activation where the map is narrow.

    Features, each the last map of its stride: `bottleneck1` (16 channels, stride 2), `bottleneck3` (24, 4),
    `bottleneck6` (32, 8), `bottleneck13` (96, 16), `bottleneck17` (320, 32), counted through the rows of Table 2. The
    1x1 convolution to 1280 channels is left out, as in the paper's own segmentation (section 6.3: a DeepLab head on the
    320 channels costs far less and does about as well).

    Source: Sandler et al. 2018, arXiv:1801.04381, Table 2. Weights: torchvision's IMAGENET1K_V1.
    """

    def __init__(
        self,
        in_channels: int,
        weights: str | None,
        output_stride: Literal[8, 16, 32],
        dilate_strided: bool,
    ) -> None:
        taps = {i: f"bottleneck{i}" for i in (1, 3, 6, 13, 17)}
        net, url = get_model("mobilenet_v2", weights=None), get_model_weights("mobilenet_v2")["IMAGENET1K_V1"].url
        super().__init__(in_channels, net, taps, weights, url, output_stride, dilate_strided)


class MobileNetV3(InvertedResidualNet):
    """MobileNetV3, torchvision's: blocks found by search, with squeeze-and-excitation and hard swish.

    Features: `bneck<n>`, the last of the `bneck` rows of Tables 1 and 2 at each stride, and at the deepest stride the
    1x1 convolution after them, `conv`, from which segmentation heads start (960 channels in `large`, 576 in `small`).
    `c2` is the first map of stride 8, read by torchvision's LR-ASPP and auxiliary head. In `small` there is no `bneck`
    at stride 2: its feature is `stem`.

    With `output_stride` 16 and `dilate_strided` this is torchvision's `dilated=True`, under its DeepLabV3 and LR-ASPP.

    Args:
        reduced_tail: half the channels from the last stride on, for dense prediction (section 6.4, "RF2"); no weights
            are published for it.

    Source: Howard et al. 2019, arXiv:1905.02244, Tables 1 and 2. Weights: torchvision's IMAGENET1K_V1.
    """

    def __init__(
        self,
        in_channels: int,
        name: Literal["mobilenet_v3_small", "mobilenet_v3_large"],
        reduced_tail: bool,
        weights: str | None,
        output_stride: Literal[8, 16, 32],
        dilate_strided: bool,
    ) -> None:
        taps = {
            "mobilenet_v3_large": {1: "bneck1", 3: "bneck3", 4: "c2", 6: "bneck6", 12: "bneck12", 16: "conv"},
            "mobilenet_v3_small": {0: "stem", 1: "bneck1", 2: "c2", 3: "bneck3", 8: "bneck8", 12: "conv"},
        }[name]
        net = get_model(name, weights=None, reduced_tail=reduced_tail)
        url = None if reduced_tail else get_model_weights(name)["IMAGENET1K_V1"].url
        super().__init__(in_channels, net, taps, weights, url, output_stride, dilate_strided)
        self.name = name


def _stem(in_channels: int, out_channels: int) -> nn.Conv2d:
    conv = nn.Conv2d(in_channels, out_channels, kernel_size=3, stride=2, padding=1, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out")
    return conv
