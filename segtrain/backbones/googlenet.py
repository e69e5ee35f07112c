"""GoogLeNet, as torchvision builds it."""

from typing import Literal

import torch
from torch import Tensor, nn
from torchvision.models import GoogLeNet as TorchvisionGoogLeNet
from torchvision.models import GoogLeNet_Weights

from segtrain.backbones.base import Backbone
from segtrain.nn.dilation import hold_output_stride
from segtrain.nn.init import he_init
from segtrain.nn.norm import convert_norm
from segtrain.nn.pooling import convert_pooling
from segtrain.types import Feature
from segtrain.weights import load_weights

# The network in the order in which it runs: layers, and the feature that the last of them gives.
PARTS = [
    (["conv1"], Feature("conv1", 64, 2)),
    (["maxpool1", "conv2", "conv3"], Feature("conv3", 192, 4)),
    (["maxpool2", "inception3a", "inception3b"], Feature("inception3b", 480, 8)),
    (["maxpool3", "inception4a"], Feature("inception4a", 512, 16)),
    (["inception4b", "inception4c", "inception4d"], Feature("inception4d", 528, 16)),
    (["inception4e"], Feature("inception4e", 832, 16)),
    (["maxpool4", "inception5a", "inception5b"], Feature("inception5b", 1024, 32)),
]


class GoogLeNet(Backbone):
    """torchvision's GoogLeNet without its classifiers, under torchvision's parameter names.

    Modules of four parallel branches: 1x1, 3x3 and "5x5" convolutions (3x3 in torchvision's, a slip that its published
    weights were made with) and a 3x3 max-pooling of stride 1. BatchNorm, younger than the paper, follows each
    convolution. Features `conv1` (stride 2), `conv3` (4), `inception3b` (8), `inception4a`, `inception4d` and
    `inception4e` (16), `inception5b` (32); the paper hangs its two auxiliary classifiers on inception4a and inception4d
    (Figure 3). Initialised by `he_init`.

    The published weights were made for pixels normalised as (x - 0.5) / 0.5, not by ImageNet's mean and deviation.
    Loading weights therefore sets `transform_input` to take the one to the other before the first convolution: folded
    into its weights, it would be wrong where that convolution looks at the zeros beyond the border. Without weights it
    is the identity.

    Args:
        in_channels: of the images. Weights made for 3 channels are adapted as `adapt_stem` says.
        weights: `imagenet` (torchvision's IMAGENET1K_V1); the path of a state dict in torchvision's names, with or
            without `fc.*` and `aux*`, made as the published one (torchvision's `transform_input=True`); or None.
        output_stride: of the deepest feature. At 16 and 8 the last one or two poolings between modules keep the size;
            convolutions and poolings after them are dilated (`stride_to_dilation`).
        dilate_strided: the pooling that loses its stride is dilated too: a wider view than the strided network's.

    Raises:
        ConfigError: the output stride is impossible.
        CheckpointError: the weights are missing, damaged, or another network's.

    Source: Szegedy et al. 2015, arXiv:1409.4842, Table 1.
    """

    def __init__(
        self, in_channels: int, weights: str | None, output_stride: Literal[8, 16, 32], dilate_strided: bool
    ) -> None:
        super().__init__(in_channels, [f._replace(stride=min(f.stride, output_stride)) for _, f in PARTS])
        net = TorchvisionGoogLeNet(aux_logits=False, init_weights=False)
        self.transform_input = ChannelAffine(in_channels)
        for layers, _ in PARTS:
            for layer in layers:
                self.add_module(layer, getattr(net, layer))
        if in_channels != 3:
            net.conv1.conv = nn.Conv2d(in_channels, 64, kernel_size=7, stride=2, padding=3, bias=False)
        convert_norm(self, "batch")
        convert_pooling(self)
        stages = [(feature.stride, [getattr(self, layer) for layer in layers]) for layers, feature in PARTS]
        hold_output_stride(stages, output_stride, dilate_strided)
        he_init(self)
        if weights is not None:
            url = GoogLeNet_Weights.IMAGENET1K_V1.url
            dropped = ("fc.", "aux1.", "aux2.")
            load_weights(self, weights, url, stem="conv1.conv.weight", drop=dropped, convert=self._with_input_transform)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        x = self.transform_input(images)
        pyramid: dict[str, Tensor] = {}
        for layers, feature in PARTS:
            for layer in layers:
                x = self.run(getattr(self, layer), x)
            pyramid[feature.name] = x
        return pyramid

    def _with_input_transform(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Adds what takes pixels normalised by ImageNet's mean and deviation to (x - 0.5) / 0.5.

        Channels beyond three are taken for R, G, B in turn, as in `adapt_stem`; a single one for their mean.
        """
        mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
        if self.in_channels == 1:
            mean, std = mean.mean(dim=0, keepdim=True), std.mean(dim=0, keepdim=True)
        colours = [channel % len(mean) for channel in range(self.in_channels)]
        scale, shift = std[colours] / 0.5, (mean[colours] - 0.5) / 0.5
        return {"transform_input.scale": scale, "transform_input.shift": shift} | state


class ChannelAffine(nn.Module):
    """x * scale + shift, channel by channel; neither is learned, both are saved with the weights they belong to."""

    scale: Tensor
    shift: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("scale", torch.ones(channels))
        self.register_buffer("shift", torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale[:, None, None] + self.shift[:, None, None]
