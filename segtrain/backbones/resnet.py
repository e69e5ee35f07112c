"""ResNet, as torchvision builds it."""

from typing import Literal

from torch import Tensor, nn
from torchvision.models import get_model, get_model_weights

from segtrain.backbones.base import Backbone
from segtrain.backbones.weights import load_weights
from segtrain.errors import ConfigError
from segtrain.nn.dilation import stride_to_dilation
from segtrain.nn.norm import BatchNorm2d
from segtrain.types import Feature


class ResNet(Backbone):
    """torchvision's ResNet without its classifier, under torchvision's parameter names.

    Features `stem` (the first convolution, stride 2) and `layer1` ... `layer4` (strides 4, 8, 16, 32, the last ones
    held at `output_stride`). Without weights it starts from torchvision's initialisation: He, fan out.

    Args:
        in_channels: of the images. Weights made for 3 channels are adapted as `adapt_stem` says.
        name: which ResNet.
        weights: `imagenet` (torchvision's IMAGENET1K_V1 for every depth, the recipe of the papers, as under
            torchvision's own segmentation models); the path of a state dict in torchvision's names, with or without
            `fc.*`; or None.
        output_stride: of the deepest feature. 16 and 8 turn the strides of the last one or two stages into dilation
            (`stride_to_dilation`): finer maps for more time and memory. Basic blocks follow the same rule as
            bottlenecks, for which it gives torchvision's `replace_stride_with_dilation`.

    Raises:
        CheckpointError: the weights are missing, damaged, or another network's.

    Source: He et al. 2016, arXiv:1512.03385.
    """

    def __init__(
        self,
        in_channels: int,
        name: Literal["resnet18", "resnet34", "resnet50", "resnet101", "resnet152"],
        weights: str | None,
        output_stride: Literal[8, 16, 32],
    ) -> None:
        if output_stride not in (8, 16, 32):
            raise ConfigError(f"model.backbone.output_stride={output_stride}: must be 8, 16 or 32")
        net = get_model(name, weights=None, norm_layer=BatchNorm2d)
        expansion = net.layer1[0].expansion
        super().__init__(
            in_channels,
            [Feature("stem", net.conv1.out_channels, 2)]
            + [Feature(f"layer{i}", 32 * 2**i * expansion, min(2 * 2**i, output_stride)) for i in (1, 2, 3, 4)],
        )
        self.conv1 = net.conv1 if in_channels == 3 else _stem(in_channels, net.conv1)
        self.bn1, self.relu, self.maxpool = net.bn1, net.relu, net.maxpool
        self.layer1, self.layer2, self.layer3, self.layer4 = net.layer1, net.layer2, net.layer3, net.layer4

        dilation = 1
        for stage in {32: [], 16: [self.layer4], 8: [self.layer3, self.layer4]}[output_stride]:
            dilation = stride_to_dilation(stage, dilation)
        if weights is not None:
            load_weights(self, weights, get_model_weights(name)["IMAGENET1K_V1"], stem="conv1.weight", drop=("fc.",))

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        stem = self.relu(self.bn1(self.conv1(images)))
        layer1 = self.layer1(self.maxpool(stem))
        layer2 = self.layer2(layer1)
        layer3 = self.layer3(layer2)
        layer4 = self.layer4(layer3)
        return {"stem": stem, "layer1": layer1, "layer2": layer2, "layer3": layer3, "layer4": layer4}


def _stem(in_channels: int, like: nn.Conv2d) -> nn.Conv2d:
    conv = nn.Conv2d(in_channels, like.out_channels, kernel_size=7, stride=2, padding=3, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return conv
