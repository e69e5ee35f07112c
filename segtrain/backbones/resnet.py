"""ResNet, ResNeXt and Wide ResNet as torchvision builds them, and what can be asked of any network of their kind."""

from typing import Literal

from torch import Tensor, nn
from torchvision.models import get_model, get_model_weights

from segtrain.backbones.base import Backbone
from segtrain.errors import ConfigError
from segtrain.nn.deformable import DeformableVersion, make_deformable
from segtrain.nn.dilation import hold_output_stride, multi_grid
from segtrain.nn.norm import BatchNorm2d
from segtrain.types import Feature
from segtrain.weights import load_weights


class ResidualBackbone(Backbone):
    """A stem of stride 2, a max-pooling, and four stages of residual blocks.

    Features `stem` and `layer1` ... `layer4` (strides 2, 4, 8, 16, 32, the last ones held at `output_stride`). A
    subclass makes the layers, calls `dilate`, loads weights, and then calls `deform`.

    Args:
        stem_channels: channels of the stem's map.
        channels: of the four stages' maps.
        output_stride: of the deepest feature.

    Attributes:
        maxpool: between the stem and the first stage.
        layer1: the first stage; the others likewise. Children are blocks, whose shortcut is registered last.
    """

    maxpool: nn.Module
    layer1: nn.Sequential
    layer2: nn.Sequential
    layer3: nn.Sequential
    layer4: nn.Sequential

    def __init__(self, in_channels: int, stem_channels: int, channels: list[int], output_stride: int) -> None:
        stages = [Feature(f"layer{i}", c, min(2 * 2**i, output_stride)) for i, c in enumerate(channels, start=1)]
        super().__init__(in_channels, [Feature("stem", stem_channels, 2), *stages])

    def stem(self, images: Tensor) -> Tensor:
        """[N, in_channels, H, W] -> [N, stem_channels, ceil(H / 2), ceil(W / 2)]."""
        raise NotImplementedError

    @property
    def stages(self) -> tuple[nn.Sequential, ...]:
        return self.layer1, self.layer2, self.layer3, self.layer4

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        pyramid = {"stem": self.stem(images)}
        x = self.maxpool(pyramid["stem"])
        for i, stage in enumerate(self.stages, start=1):
            x = pyramid[f"layer{i}"] = self.run(stage, x)
        return pyramid

    def dilate(self, output_stride: int, dilate_strided: bool, grid: list[int] | None) -> None:
        """Turns stride into dilation below `output_stride`, then spreads the last stage by `grid` (`multi_grid`)."""
        hold_output_stride([(2 * 2**i, [s]) for i, s in enumerate(self.stages, 1)], output_stride, dilate_strided)
        if grid is not None:
            multi_grid(list(self.layer4), grid)

    def deform(self, stages: list[int], version: DeformableVersion) -> None:
        """Makes the 3x3 convolutions of some stages deformable.

        Args:
            stages: 2 ... 5, the papers' conv2_x ... conv5_x: `layer1` ... `layer4`.
            version: see `DeformableConv2d`.

        Raises:
            ConfigError: there is no such stage, or one is named twice.
        """
        if not set(stages) <= {2, 3, 4, 5} or len(set(stages)) < len(stages):
            raise ConfigError(
                f"model.backbone.deformable_stages={stages}: must be different numbers out of 2, 3, 4 and 5 "
                "(conv2_x to conv5_x, that is layer1 to layer4), or []"
            )
        for stage in stages:
            make_deformable(self.stages[stage - 2], version)


class ResNet(ResidualBackbone):
    """torchvision's ResNet, ResNeXt or Wide ResNet without its classifier, under torchvision's parameter names.

    Features as in `ResidualBackbone`. Without weights it starts from torchvision's initialisation: He, fan out. Its
    bottlenecks have their stride in the 3x3 convolution, where the paper has it in the first 1x1.

    Args:
        in_channels: of the images. Weights made for 3 channels are adapted as `adapt_stem` says.
        name: which network.
        weights: `imagenet` (torchvision's IMAGENET1K_V1 for every network: the papers' recipe, as under torchvision's
            own segmentation models, but for resnext101_64x4d a newer one); the path of a state dict of the plain
            network in torchvision's names, with or without `fc.*`; or None.
        output_stride: of the deepest feature. 16 and 8 turn the strides of the last one or two stages into dilation
            (`stride_to_dilation`): finer maps for more time and memory. Basic blocks follow the same rule as
            bottlenecks, for which it gives torchvision's `replace_stride_with_dilation`.
        dilate_strided: the convolution that loses its stride is dilated too, as in segmentation_models.pytorch.
        multi_grid: a factor for the dilation of each block of `layer4`, or None; DeepLab v3's is 1, 2, 4.
        deformable_stages: 2 ... 5 (`layer1` ... `layer4`), whose 3x3 convolutions become deformable.
        deformable_version: 1: offsets | 2: offsets and masks; see `DeformableConv2d`.

    Raises:
        ConfigError: an option is impossible; the message says what is possible.
        CheckpointError: the weights are missing, damaged, or another network's.

    Source: ResNet: He et al. 2016, arXiv:1512.03385; ResNeXt: Xie et al. 2017, arXiv:1611.05431; Wide ResNet:
    Zagoruyko and Komodakis 2016, arXiv:1605.07146.
    """

    def __init__(
        self,
        in_channels: int,
        name: Literal[
            "resnet18",
            "resnet34",
            "resnet50",
            "resnet101",
            "resnet152",
            "resnext50_32x4d",
            "resnext101_32x8d",
            "resnext101_64x4d",
            "wide_resnet50_2",
            "wide_resnet101_2",
        ],
        weights: str | None,
        output_stride: Literal[8, 16, 32],
        dilate_strided: bool,
        multi_grid: list[int] | None,
        deformable_stages: list[int],
        deformable_version: DeformableVersion,
    ) -> None:
        net = get_model(name, weights=None, norm_layer=BatchNorm2d)
        channels = [width * net.layer1[0].expansion for width in (64, 128, 256, 512)]
        super().__init__(in_channels, net.conv1.out_channels, channels, output_stride)
        self.name = name
        self.conv1 = net.conv1 if in_channels == 3 else _stem(in_channels, net.conv1)
        self.bn1, self.relu, self.maxpool = net.bn1, net.relu, net.maxpool
        self.layer1, self.layer2, self.layer3, self.layer4 = net.layer1, net.layer2, net.layer3, net.layer4

        self.dilate(output_stride, dilate_strided, multi_grid)
        if weights is not None:
            url = get_model_weights(name)["IMAGENET1K_V1"].url
            load_weights(self, weights, url, stem="conv1.weight", drop=("fc.",))
        self.deform(deformable_stages, deformable_version)

    def stem(self, images: Tensor) -> Tensor:
        x: Tensor = self.relu(self.bn1(self.conv1(images)))
        return x


def _stem(in_channels: int, like: nn.Conv2d) -> nn.Conv2d:
    conv = nn.Conv2d(in_channels, like.out_channels, kernel_size=7, stride=2, padding=3, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return conv
