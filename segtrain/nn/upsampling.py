"""Bilinear upsampling by a whole number, fixed or as the start of a learned one."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segtrain.nn.resize import resize_to


class BilinearUpsampling(nn.Module):
    """Bilinear interpolation between pixel centres: [N, C, h, w] -> [N, C, factor * h, factor * w]. No weights.

    Pixel i of the input becomes the pixels factor * i ... factor * i + factor - 1 of the output, whatever the size of
    the image that the input was computed from: where strides divide it with a remainder, cut the output, since
    interpolating to the image's size would shift every pixel.
    """

    def __init__(self, factor: int) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        return resize_to(x, (self.factor * height, self.factor * width))

    def extra_repr(self) -> str:
        return f"factor={self.factor}"


class LearnedUpsampling(nn.ConvTranspose2d):
    """A transposed convolution that starts as `BilinearUpsampling` and learns: one kernel for each channel.

    Each input pixel spreads over 2 * factor - factor % 2 output pixels each way. The input's border is repeated once,
    so that the pixels at the border are interpolated like all others, and do not fade towards 0.

    The authors' release has a kernel for each pair of classes, all zero but those of a class with itself, and holds
    them fixed (lr_mult 0). One for each class is what is left of them, and may learn.

    Source: Long et al. 2015, arXiv:1411.4038, section 3.3 ("deconvolution").
    """

    def __init__(self, channels: int, factor: int) -> None:
        super().__init__(
            channels,
            channels,
            kernel_size=2 * factor - factor % 2,
            stride=factor,
            padding=factor + factor // 2,  # factor pixels are those of the repeated border
            groups=channels,
            bias=False,
        )

    def reset_parameters(self) -> None:
        with torch.no_grad():
            self.weight.copy_(bilinear_kernel(self.stride[0]))

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        return super().forward(F.pad(input, (1, 1, 1, 1), mode="replicate"), output_size)


def bilinear_kernel(factor: int) -> Tensor:
    """[k, k] with k = 2 * factor - factor % 2: the transposed convolution of stride `factor` that interpolates.

    In one dimension a tent, 1 at its middle and 0 at `factor` from it: factor 2 gives 1/4, 3/4, 3/4, 1/4.
    """
    size = 2 * factor - factor % 2
    distance = (torch.arange(size) - (size - 1) / 2).abs()
    tent = 1 - distance / factor
    return torch.outer(tent, tent)
