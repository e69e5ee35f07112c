"""Squeeze-and-Excitation networks: SE-ResNet, SE-ResNeXt and SENet-154."""

from collections import OrderedDict
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from segtrain.backbones.resnet import ResidualBackbone
from segtrain.errors import ConfigError
from segtrain.nn.deformable import DeformableVersion
from segtrain.nn.init import he_init
from segtrain.nn.norm import BatchNorm2d
from segtrain.nn.pooling import MaxPool2d
from segtrain.weights import load_weights


@dataclass(frozen=True)
class Design:
    """What sets one network of the family apart.

    Attributes:
        blocks: in each of the four stages.
        file: of its ImageNet weights, among timm's releases.
        inner: a bottleneck's channels after its first 1x1 and after its 3x3 convolution, in units of the stage's
            width; None: basic blocks.
        groups: of the 3x3 convolution.
        early_stride: stride in the first 1x1 convolution of a bottleneck (as in the ResNet paper), not in its 3x3.
        stem154: SENet-154's ends: three 3x3 convolutions to 128 channels for the 7x7 to 64, and 3x3 shortcuts where
            the map shrinks.
    """

    blocks: tuple[int, int, int, int]
    file: str
    inner: tuple[int, int] | None = None
    groups: int = 1
    early_stride: bool = False
    stem154: bool = False

    @property
    def expansion(self) -> int:
        """Channels that a block gives, in units of the stage's width."""
        return 1 if self.inner is None else 4


DESIGNS = {
    "seresnet18": Design((2, 2, 2, 2), "v0.1-weights/seresnet18-4bb0ce65.pth"),
    "seresnet34": Design((3, 4, 6, 3), "v0.1-weights/seresnet34-a4004e63.pth"),
    "seresnet50": Design((3, 4, 6, 3), "v0.1-cadene/se_resnet50-ce0d4300.pth", (1, 1), early_stride=True),
    "seresnet101": Design((3, 4, 23, 3), "v0.1-cadene/se_resnet101-7e38fcc6.pth", (1, 1), early_stride=True),
    "seresnet152": Design((3, 8, 36, 3), "v0.1-cadene/se_resnet152-d17c99b7.pth", (1, 1), early_stride=True),
    "seresnext50_32x4d": Design((3, 4, 6, 3), "v0.1-weights/legacy_se_resnext50_32x4d-f3651bad.pth", (2, 2), groups=32),
    "seresnext101_32x4d": Design(
        (3, 4, 23, 3), "v0.1-weights/legacy_se_resnext101_32x4d-37725eac.pth", (2, 2), groups=32
    ),
    "senet154": Design((3, 8, 36, 3), "v0.1-weights/legacy_senet154-e9eb9fe6.pth", (2, 4), groups=64, stem154=True),
}
WIDTHS = (64, 128, 256, 512)  # of the stages; a block gives `Design.expansion` times as many channels
RELEASES = "https://github.com/rwightman/pytorch-image-models/releases/download"


class SENet(ResidualBackbone):
    """SE-ResNet, SE-ResNeXt or SENet-154 without its classifier, under the parameter names of the published files.

    Features as in `ResidualBackbone`. Initialised by `he_init`, as the paper says. The max-pooling rounds up without
    padding and the bottlenecks of SE-ResNet have their stride in the first 1x1 convolution, as in the authors' Caffe
    networks; basic blocks, which those lack, have a ReLU before the squeeze, as the weights were trained.

    Args:
        in_channels: of the images. Weights made for 3 channels are adapted as `adapt_stem` says.
        name: which network.
        weights: `imagenet` (the authors' weights, converted; timm's own for seresnet18 and 34); the path of a state
            dict of the plain network in their names (`layer0.conv1.weight`), with or without `last_linear.*`; or None.
        squeeze: False leaves out the squeeze and excitation, which makes it a plain residual network; published
            weights do not fit then.
        reduction: channels of a block over those between its squeeze and its excitation; published weights have 16.
        output_stride: as for `ResNet`, with the four below.

    Raises:
        ConfigError: an option is impossible; the message says what is possible.
        CheckpointError: the weights are missing, damaged, or another network's.

    Source: Hu et al. 2018, arXiv:1709.01507; SENet-154: its appendix.
    """

    def __init__(
        self,
        in_channels: int,
        name: Literal[
            "seresnet18",
            "seresnet34",
            "seresnet50",
            "seresnet101",
            "seresnet152",
            "seresnext50_32x4d",
            "seresnext101_32x4d",
            "senet154",
        ],
        weights: str | None,
        squeeze: bool,
        reduction: int,
        output_stride: Literal[8, 16, 32],
        dilate_strided: bool,
        multi_grid: list[int] | None,
        deformable_stages: list[int],
        deformable_version: DeformableVersion,
    ) -> None:
        design = DESIGNS[name]
        stem_channels = 128 if design.stem154 else 64
        channels = [width * design.expansion for width in WIDTHS]
        if not 1 <= reduction <= channels[0]:
            raise ConfigError(f"model.backbone.reduction={reduction}: must lie between 1 and {channels[0]}")
        super().__init__(in_channels, stem_channels, channels, output_stride)
        self.layer0 = _stem154(in_channels) if design.stem154 else _stem(in_channels)
        self.maxpool = MaxPool2d(3, stride=2)
        squeeze_by = reduction if squeeze else None
        self.layer1, self.layer2, self.layer3, self.layer4 = (
            _stage(design, before, i, squeeze_by) for i, before in enumerate([stem_channels, *channels[:-1]])
        )
        he_init(self)

        self.dilate(output_stride, dilate_strided, multi_grid)
        if weights is not None:
            load_weights(self, weights, f"{RELEASES}/{design.file}", stem="layer0.conv1.weight", drop=("last_linear.",))
        self.deform(deformable_stages, deformable_version)

    def stem(self, images: Tensor) -> Tensor:
        x: Tensor = self.layer0(images)
        return x


class SqueezeExcitation(nn.Module):
    """Weighs the channels of a map by what all of it holds: [N, channels, H, W] -> the same.

    Squeeze: the mean of each channel. Excitation: two fully connected layers (here 1x1 convolutions) with ReLU between,
    then a sigmoid: a weight in (0, 1) for each channel.

    Source: Hu et al. 2018, arXiv:1709.01507, sections 3.1 and 3.2.
    """

    def __init__(self, channels: int, reduction: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, channels // reduction, 1)
        self.fc2 = nn.Conv2d(channels // reduction, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        squeezed = x.mean(dim=(2, 3), keepdim=True)
        excitation: Tensor = self.fc2(self.fc1(squeezed).relu()).sigmoid()
        return x * excitation


class SEBasicBlock(nn.Module):
    """Two 3x3 convolutions, squeeze and excitation, and the shortcut added."""

    def __init__(self, design: Design, in_channels: int, width: int, stride: int, reduction: int | None) -> None:
        super().__init__()
        self.conv1 = _conv(in_channels, width, 3, stride)
        self.bn1 = BatchNorm2d(width)
        self.conv2 = _conv(width, width, 3)
        self.bn2 = BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.se_module = _squeeze(width, reduction)
        self.downsample = _shortcut(design, in_channels, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        out: Tensor = self.relu(self.se_module(y) + self.downsample(x))
        return out


class SEBottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolution, squeeze and excitation, and the shortcut added."""

    def __init__(self, design: Design, in_channels: int, width: int, stride: int, reduction: int | None) -> None:
        super().__init__()
        assert design.inner is not None
        inner1, inner2 = (factor * width for factor in design.inner)
        out_channels = width * design.expansion
        stride1, stride2 = (stride, 1) if design.early_stride else (1, stride)
        self.conv1 = _conv(in_channels, inner1, 1, stride1)
        self.bn1 = BatchNorm2d(inner1)
        self.conv2 = _conv(inner1, inner2, 3, stride2, groups=design.groups)
        self.bn2 = BatchNorm2d(inner2)
        self.conv3 = _conv(inner2, out_channels, 1)
        self.bn3 = BatchNorm2d(out_channels)
        self.relu = nn.ReLU(inplace=True)
        self.se_module = _squeeze(out_channels, reduction)
        self.downsample = _shortcut(design, in_channels, out_channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        out: Tensor = self.relu(self.se_module(y) + self.downsample(x))
        return out


def _stage(design: Design, in_channels: int, index: int, reduction: int | None) -> nn.Sequential:
    block = SEBasicBlock if design.inner is None else SEBottleneck
    width, stride = WIDTHS[index], 1 if index == 0 else 2
    first = block(design, in_channels, width, stride, reduction)
    later = [block(design, width * design.expansion, width, 1, reduction) for _ in range(design.blocks[index] - 1)]
    return nn.Sequential(first, *later)


def _stem(in_channels: int) -> nn.Sequential:
    layers = OrderedDict(conv1=_conv(in_channels, 64, 7, stride=2), bn1=BatchNorm2d(64), relu1=nn.ReLU(inplace=True))
    return nn.Sequential(layers)


def _stem154(in_channels: int) -> nn.Sequential:
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for i, (before, after, stride) in enumerate([(in_channels, 64, 2), (64, 64, 1), (64, 128, 1)], start=1):
        layers[f"conv{i}"] = _conv(before, after, 3, stride)
        layers[f"bn{i}"] = BatchNorm2d(after)
        layers[f"relu{i}"] = nn.ReLU(inplace=True)
    return nn.Sequential(layers)


def _shortcut(design: Design, in_channels: int, out_channels: int, stride: int) -> nn.Module:
    if stride == 1 and in_channels == out_channels:
        return nn.Identity()
    kernel_size = 3 if design.stem154 and stride > 1 else 1
    return nn.Sequential(_conv(in_channels, out_channels, kernel_size, stride), BatchNorm2d(out_channels))


def _squeeze(channels: int, reduction: int | None) -> nn.Module:
    return nn.Identity() if reduction is None else SqueezeExcitation(channels, reduction)


def _conv(in_channels: int, out_channels: int, kernel_size: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    return nn.Conv2d(
        in_channels, out_channels, kernel_size, stride, padding=kernel_size // 2, groups=groups, bias=False
    )
