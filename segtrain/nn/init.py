"""Initialisation as the papers give it."""

import math
from typing import Literal

from torch import nn


def he_init(module: nn.Module, distribution: Literal["normal", "uniform"] = "normal") -> None:
    """Draws every convolution in `module` from a Gaussian of standard deviation sqrt(2 / N); biases become 0.

    N is the number of inputs that one output value sums over: kernel area times input channels (over groups). For
    a transposed convolution only 1 / stride^2 of the kernel meets any one output. A network of convolutions and ReLUs
    then starts with activations of about unit variance at every depth. Norm layers start as the identity, as in torch.

    Args:
        distribution: `uniform`: of the same standard deviation, hence between -sqrt(6 / N) and sqrt(6 / N).

    Source: He et al. 2015, arXiv:1502.01852, eq. 10; used by U-Net: arXiv:1505.04597, section 3.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            fan_in = layer.in_channels // layer.groups * math.prod(layer.kernel_size)
            if isinstance(layer, nn.ConvTranspose2d):
                fan_in = max(1, fan_in // math.prod(layer.stride))
            if distribution == "uniform":
                nn.init.uniform_(layer.weight, -math.sqrt(6 / fan_in), math.sqrt(6 / fan_in))
            else:
                nn.init.normal_(layer.weight, std=math.sqrt(2 / fan_in))
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
