"""Pre-activation: BatchNorm and ReLU come before the convolution, so that sums and stacks of maps pass untouched."""

from collections import OrderedDict

from torch import Tensor, nn

from segtrain.nn.norm import BatchNorm2d


class NormActConv(nn.Sequential):
    """BatchNorm if asked for, ReLU, convolution, dropout; children `norm`, `act`, `conv`, `dropout`.

    [N, in_channels, H, W] -> [N, out_channels, ceil(H / stride), ceil(W / stride)] for odd kernel sizes. The
    convolution has a bias only without BatchNorm: the one that reads it next would cancel it.

    Args:
        dropout: share of the values set to zero in training, in [0, 1).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        *,
        batch_norm: bool,
        stride: int = 1,
        dropout: float = 0.0,
    ) -> None:
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        if batch_norm:
            layers["norm"] = BatchNorm2d(in_channels)
        layers["act"] = nn.ReLU(inplace=batch_norm)  # without BatchNorm, x itself, which others read too
        layers["conv"] = nn.Conv2d(
            in_channels, out_channels, kernel_size, stride=stride, padding=kernel_size // 2, bias=not batch_norm
        )
        if dropout:
            layers["dropout"] = nn.Dropout(dropout)
        super().__init__(layers)


class ResidualUnit(nn.Module):
    """Two pre-activated 3x3 convolutions, added to what came in.

    [N, in_channels, H, W] -> [N, out_channels, ceil(H / stride), ceil(W / stride)]. Where channels or stride change,
    the shortcut is a 1x1 convolution over every stride-th pixel.

    Args:
        stride: of the first convolution.
        reads_images: no BatchNorm and ReLU before the first convolution, since there is nothing to activate yet.

    Source: He et al. 2016, arXiv:1603.05027, Figure 1 (b); the first unit: Zhang et al. 2018, arXiv:1711.10684, Fig. 2.
    """

    def __init__(
        self, in_channels: int, out_channels: int, *, batch_norm: bool, stride: int = 1, reads_images: bool = False
    ) -> None:
        super().__init__()
        self.conv1 = (
            nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=not batch_norm)
            if reads_images
            else NormActConv(in_channels, out_channels, stride=stride, batch_norm=batch_norm)
        )
        self.conv2 = NormActConv(out_channels, out_channels, batch_norm=batch_norm)
        self.shortcut = (
            nn.Identity()
            if in_channels == out_channels and stride == 1
            else nn.Conv2d(in_channels, out_channels, 1, bias=False)
        )
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        # Not a strided 1x1 convolution: below 16 channels, channels last, its backward pass on a CPU writes beyond its
        # memory (oneDNN issue 6035).
        result: Tensor = self.conv2(self.conv1(x)) + self.shortcut(x[..., :: self.stride, :: self.stride])
        return result
