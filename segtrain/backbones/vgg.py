"""VGG, with or without its fully connected layers turned into convolutions."""

from collections.abc import Sequence
from itertools import accumulate, chain
from typing import Literal

import torch
from torch import Tensor, nn
from torchvision.models import get_model_weights

from segtrain.backbones.base import Backbone
from segtrain.errors import ConfigError
from segtrain.nn.checks import check_share
from segtrain.nn.dilation import hold_output_stride
from segtrain.nn.dilation import multi_grid as apply_multi_grid
from segtrain.nn.init import he_init
from segtrain.nn.norm import BatchNorm2d
from segtrain.nn.pooling import MaxPool2d
from segtrain.types import Feature
from segtrain.weights import load_weights

CHANNELS = (64, 128, 256, 512, 512)
# Convolutions in each block: configurations A, B, D and E of Table 1.
DEPTHS = {"vgg11": (1, 1, 2, 2, 2), "vgg13": (2, 2, 2, 2, 2), "vgg16": (2, 2, 3, 3, 3), "vgg19": (2, 2, 4, 4, 4)}


class VGG(Backbone):
    """Five blocks of 3x3 convolutions, each followed by a max-pooling; then, if asked for, fc6 and fc7.

    torchvision's network under its parameter names, as child `net`. Features, with `taps: conv`: `conv1` ... `conv5`,
    the map before each pooling (strides 1, 2, 4, 8, 16), and `pool5` (32), as U-Nets join them. With `taps: pool`:
    `pool1` ... `pool5`, after each pooling (strides 2 ... 32), as FCN and DeepLab do. `fc7`, at pool5's stride, is the
    last where there are fully connected layers. Initialised by `he_init`.

    fc6 sees a window of pool5's map, fc7 one pixel: applied everywhere instead of once, they are convolutions with the
    same weights. Here fc6 is padded to keep the map's size; FCN instead pads the image by 100 pixels, leaves fc6
    unpadded, and crops the upsampled logits, so that its maps lie on a shifted grid.

    DeepLab's Caffe networks leave poolings undilated; `output_stride` here follows the a-trous rule exactly, which at
    output stride 8 spreads pool5's window by 2, since it reads what pool4 no longer thins out.

    Args:
        in_channels: of the images. Weights made for 3 channels are adapted as `adapt_stem` says.
        name: which VGG; `_bn` with BatchNorm after each convolution.
        weights: `imagenet` (torchvision's IMAGENET1K_V1); the path of a state dict in torchvision's names; or None. The
            classifier's two hidden layers become fc6 and fc7; where these are smaller, evenly spaced taps of the
            window and evenly spaced channels are kept ("simple decimation", arXiv:1412.7062).
        output_stride: of the deepest feature. At 16 and 8 the last one or two poolings keep the size, and the layers
            after them are dilated; not fc6, whose `fc_dilation` is absolute.
        dilate_strided: the pooling that loses its stride is dilated too: a wider view than the strided network's.
        multi_grid: a factor for the dilation of each convolution of conv5, or None.
        taps: which maps are features, see above.
        pool_kernel_size: 2 as published, or 3, padded by 1, as in DeepLab.
        fc_channels: of fc6 and fc7; the published files have 4096. None: the network ends with pool5.
        fc_kernel_size: of fc6; 7 as published.
        fc_dilation: of fc6. The exact a-trous rule asks for 32 / output_stride; DeepLab's LargeFOV takes 12.
        fc_dropout: share of fc6's and of fc7's values set to zero in training, in [0, 1).

    Raises:
        ConfigError: an option is impossible; the message says what is possible.
        CheckpointError: the weights are missing, damaged, or another network's.

    Source: Simonyan and Zisserman 2015, arXiv:1409.1556, Table 1; fully connected layers as convolutions: Long et al.
    2015 (FCN), arXiv:1411.4038, section 3.1; Chen et al. 2015 (DeepLab), arXiv:1412.7062, section 3.
    """

    def __init__(
        self,
        in_channels: int,
        name: Literal["vgg11", "vgg13", "vgg16", "vgg19", "vgg11_bn", "vgg13_bn", "vgg16_bn", "vgg19_bn"],
        weights: str | None,
        output_stride: Literal[8, 16, 32],
        dilate_strided: bool,
        multi_grid: list[int] | None,
        taps: Literal["conv", "pool"],
        pool_kernel_size: Literal[2, 3],
        fc_channels: int | None,
        fc_kernel_size: int,
        fc_dilation: int,
        fc_dropout: float,
    ) -> None:
        super().__init__(in_channels, _features(taps, output_stride, fc_channels))
        parts = _parts(in_channels, name, pool_kernel_size)
        ends = list(accumulate(len(layers) for layers in parts.values()))
        self.spans = {part: slice(start, end) for part, start, end in zip(parts, [0, *ends], ends, strict=False)}
        self.net = nn.ModuleDict({"features": nn.Sequential(*chain.from_iterable(parts.values()))})
        if fc_channels is not None:
            self.net["classifier"] = _classifier(fc_channels, fc_kernel_size, fc_dilation, fc_dropout)

        stages = [(2**i, [*parts[f"pool{i}"], *parts.get(f"conv{i + 1}", [])]) for i in (1, 2, 3, 4, 5)]
        hold_output_stride(stages, output_stride, dilate_strided)
        if multi_grid is not None:
            apply_multi_grid([layer for layer in parts["conv5"] if isinstance(layer, nn.Conv2d)], multi_grid)
        he_init(self)
        if weights is not None:
            url = get_model_weights(name)["IMAGENET1K_V1"].url
            drop = ("classifier.",) if fc_channels is None else ("classifier.6.",)
            load_weights(self.net, weights, url, stem="features.0.weight", drop=drop, convert=self._as_convolutions)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        x = images
        layers = self.net.get_submodule("features")
        assert isinstance(layers, nn.Sequential)
        declared = {feature.name for feature in self.features}
        pyramid: dict[str, Tensor] = {}
        for part, span in self.spans.items():
            x = self.run(layers[span], x, as_one=True)  # sliced here and now: `convert_norm` may replace layers
            if part in declared:
                pyramid[part] = x
        if "classifier" in self.net:
            pyramid["fc7"] = self.run(self.net["classifier"], x, as_one=True)
        return pyramid

    def _as_convolutions(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """The classifier's matrices become kernels, decimated to this network's."""
        own = self.net.state_dict()
        fc6, fc7 = "classifier.0.weight", "classifier.3.weight"
        if fc6 in state and state[fc6].shape[1:] == (CHANNELS[-1] * 7 * 7,):
            state[fc6] = state[fc6].unflatten(1, (CHANNELS[-1], 7, 7))
        if fc7 in state and state[fc7].ndim == 2:
            state[fc7] = state[fc7][:, :, None, None]
        layers = [key for key in state if key.startswith("classifier.") and key in own]
        return state | {key: decimate(state[key], own[key].shape) for key in layers}


def decimate(weight: Tensor, shape: Sequence[int]) -> Tensor:
    """Evenly spaced entries of `weight` along every axis, first and last included, until it has `shape`.

    An axis that is too short already stays as it is. Of 7 taps, 4 are the numbers 0, 2, 4, 6, and 3 are 0, 3, 6.
    """
    for axis, (length, kept) in enumerate(zip(weight.shape, shape, strict=False)):
        if kept < length:
            weight = weight.index_select(axis, torch.linspace(0, length - 1, kept).round().long())
    return weight


def _features(taps: str, output_stride: int, fc_channels: int | None) -> list[Feature]:
    maps = [(f"conv{i}", channels, 2 ** (i - 1)) for i, channels in enumerate(CHANNELS, start=1)]
    if taps == "pool":
        maps = [(f"pool{i}", channels, 2**i) for i, channels in enumerate(CHANNELS[:-1], start=1)]
    maps.append(("pool5", CHANNELS[-1], 32))
    if fc_channels is not None:
        maps.append(("fc7", fc_channels, 32))
    return [Feature(name, channels, min(stride, output_stride)) for name, channels, stride in maps]


def _parts(in_channels: int, name: str, pool_kernel_size: int) -> dict[str, list[nn.Module]]:
    """The layers of conv1, pool1, ... conv5, pool5, in the order in which they run."""
    parts: dict[str, list[nn.Module]] = {}
    for i, (channels, depth) in enumerate(zip(CHANNELS, DEPTHS[name.removesuffix("_bn")], strict=True), start=1):
        block = parts[f"conv{i}"] = []
        for _ in range(depth):
            norm = [BatchNorm2d(channels)] if name.endswith("_bn") else []
            block += [nn.Conv2d(in_channels, channels, 3, padding=1), *norm, nn.ReLU(inplace=True)]
            in_channels = channels
        parts[f"pool{i}"] = [MaxPool2d(pool_kernel_size, stride=2, padding=(pool_kernel_size - 1) // 2)]
    return parts


def _classifier(channels: int, kernel_size: int, dilation: int, dropout: float) -> nn.Sequential:
    """fc6 and fc7 as convolutions, at torchvision's places 0 and 3."""
    for key, value in {"fc_channels": channels, "fc_kernel_size": kernel_size, "fc_dilation": dilation}.items():
        if value < 1:
            raise ConfigError(f"model.backbone.{key}={value}: must be at least 1")
    check_share("model.backbone.fc_dropout", dropout)
    return nn.Sequential(
        nn.Conv2d(CHANNELS[-1], channels, kernel_size, padding="same", dilation=dilation),
        nn.ReLU(inplace=True),
        nn.Dropout(dropout),
        nn.Conv2d(channels, channels, 1),
        nn.ReLU(inplace=True),
        nn.Dropout(dropout),
    )
