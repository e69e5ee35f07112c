"""The layer that nearly every network here is made of."""

from collections import OrderedDict

from torch import nn

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
