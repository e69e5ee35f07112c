"""Deformable convolution: every tap looks where the image tells it to."""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.utils import skip_init
from torchvision.ops import deform_conv2d

DeformableVersion = Literal[1, 2]


class DeformableConv2d(nn.Conv2d):
    """A convolution whose taps are moved, and in version 2 weighted, by amounts that depend on the image.

        y(p) = sum over taps k of  w_k * m_k(p) * x(p + p_k + dp_k(p))

    The offsets dp_k (pixels of the map it reads; x is interpolated bilinearly, 0 outside) and the masks m_k are given
    by a second convolution, `offset`, of the same kernel, stride and dilation; all channels share them. It starts at
    zero, so that offsets are 0 and masks 1: a new layer computes what the plain convolution did, and learns from there.
    `weight` and `bias` are the plain convolution's own parameters.

    Args:
        conv: the plain convolution, square and zero-padded, with its final stride and dilation.
        version: 1: offsets only, m_k = 1 | 2: masks as well, m_k = 2 sigmoid(.), between 0 and 2. The paper's is
            sigmoid(.), which starts at 1/2 and halves what a pretrained layer gives. (It also lets `offset` learn at a
            tenth of the rate; here it learns at the backbone's.)

    Source: Dai et al. 2017, arXiv:1703.06211, section 2.1; version 2: Zhu et al. 2019, arXiv:1811.11168, section 3.2.
    """

    def __init__(self, conv: nn.Conv2d, version: DeformableVersion) -> None:
        assert conv.padding_mode == "zeros"
        assert not isinstance(conv.padding, str)
        size, stride, padding, dilation = (
            pair[0] for pair in (conv.kernel_size, conv.stride, conv.padding, conv.dilation)
        )
        super().__init__(
            conv.in_channels, conv.out_channels, size, stride, padding, dilation, conv.groups, bias=False, device="meta"
        )
        self.weight, self.bias = conv.weight, conv.bias
        self.num_taps = size**2
        # No random number is drawn, on any device: what is built after starts as it does over the plain network.
        self.offset = skip_init(
            nn.Conv2d,
            conv.in_channels,
            self.num_taps * {1: 2, 2: 3}[version],  # (y, x) of each tap, then in version 2 the mask of each
            size,
            stride,
            padding,
            dilation,
            device=conv.weight.device,
        )
        for parameter in self.offset.parameters():
            nn.init.zeros_(parameter)

    def forward(self, input: Tensor) -> Tensor:
        guide = self.offset(input)
        # torchvision has no bfloat16 kernel for the CPU, and half precision would round the places of the taps.
        dtype = torch.promote_types(input.dtype, torch.float32)
        offset, mask = guide.to(dtype).tensor_split([2 * self.num_taps], dim=1)
        output: Tensor = deform_conv2d(
            input.to(dtype),
            offset,
            self.weight.to(dtype),
            None if self.bias is None else self.bias.to(dtype),
            self.stride,
            self.padding,
            self.dilation,
            2 * mask.sigmoid() if mask.shape[1] else None,
        )
        return output.to(guide.dtype)  # what a plain convolution would have given, under autocast too


def make_deformable(stage: nn.Module, version: DeformableVersion) -> None:
    """Replaces every 3x3 convolution in `stage` by a deformable one, in place.

    Parameters keep their names (`conv2.weight`); new ones are called `conv2.offset.weight` and `conv2.offset.bias`.
    Stride must have been turned into dilation before (`nn.dilation`), and plain weights loaded.
    """
    for parent in list(stage.modules()):
        for name, layer in list(parent.named_children()):
            if isinstance(layer, nn.Conv2d) and layer.kernel_size == (3, 3):
                setattr(parent, name, DeformableConv2d(layer, version))
