"""The layers that nearly every network here is made of."""

from collections import OrderedDict

import torch
from torch import Tensor, nn

from segtrain.nn.norm import BatchNorm2d


class ConvNormAct(nn.Sequential):
    """Convolution, BatchNorm if asked for, ReLU; children `conv`, `norm`, `act`.

    [N, in_channels, H, W] -> [N, out_channels, ceil(H / stride), ceil(W / stride)] for odd kernel sizes: the padding
    is half of the dilated kernel. The convolution has a bias only without BatchNorm, whose shift would cancel it.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        *,
        batch_norm: bool,
        stride: int = 1,
        dilation: int = 1,
    ) -> None:
        conv = nn.Conv2d(
            in_channels,
            out_channels,
            kernel_size,
            stride=stride,
            padding=dilation * (kernel_size // 2),
            dilation=dilation,
            bias=not batch_norm,
        )
        layers: OrderedDict[str, nn.Module] = OrderedDict(conv=conv)
        if batch_norm:
            layers["norm"] = BatchNorm2d(out_channels)
        layers["act"] = nn.ReLU(inplace=True)
        super().__init__(layers)


class SeparableConvNormAct(nn.Sequential):
    """Depthwise separable convolution, BatchNorm, ReLU; children `depthwise`, `pointwise`, `norm`, `act`.

    A 3x3 convolution of every channel by itself (where dilation happens), then a 1x1 over the channels: about a ninth
    of a plain convolution's weights and work. Sizes as in `ConvNormAct`.

    Args:
        norm_between: BatchNorm and ReLU after the depthwise convolution too (`depthwise_norm`, `depthwise_act`), as
            DeepLab v3+ has it (arXiv:1802.02611, section 3.2), and MobileNet before it.
        relu: False leaves the ReLUs out, for blocks that put theirs before their convolutions (Xception's).

    Source: Chollet 2017 (Xception), arXiv:1610.02357; atrous: Chen et al. 2018, arXiv:1802.02611, section 3.1.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        *,
        norm_between: bool,
        stride: int = 1,
        dilation: int = 1,
        relu: bool = True,
    ) -> None:
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        layers["depthwise"] = nn.Conv2d(
            in_channels,
            in_channels,
            kernel_size,
            stride=stride,
            padding=dilation * (kernel_size // 2),
            dilation=dilation,
            groups=in_channels,
            bias=False,
        )
        if norm_between:
            layers["depthwise_norm"] = BatchNorm2d(in_channels)
            if relu:
                layers["depthwise_act"] = nn.ReLU(inplace=True)
        layers["pointwise"] = nn.Conv2d(in_channels, out_channels, 1, bias=False)
        layers["norm"] = BatchNorm2d(out_channels)
        if relu:
            layers["act"] = nn.ReLU(inplace=True)
        super().__init__(layers)


class ScoreConv2d(nn.Conv2d):
    """A convolution that gives class scores; in float32 where bf16 would crash the process.

    On a CPU with AMX, oneDNN's bf16 gradient of a weight from more than 2048 channels to fewer than 16 classes writes
    beyond its memory (torch 2.15). FCN scores the 4096 channels of fc7.
    """

    def forward(self, input: Tensor) -> Tensor:
        if input.device.type != "cpu" or self.in_channels <= 2048 or self.out_channels >= 16:
            return super().forward(input)
        with torch.autocast("cpu", enabled=False):
            return super().forward(input.float())
