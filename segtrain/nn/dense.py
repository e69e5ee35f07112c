"""Dense blocks: every layer reads all maps before it."""

import torch
from torch import Tensor, nn

from segtrain.nn.preactivation import NormActConv


class DenseBlock(nn.Module):
    """Layers of BatchNorm, ReLU, 3x3 convolution and dropout, each over the input and all layers before it.

    [N, in_channels, H, W] -> [N, out_channels, H, W]: the new maps only, `growth_rate` from each layer. What follows
    stacks them on the input, or goes on without it.

    Source: Huang et al. 2017, arXiv:1608.06993, eq. 2; without bottlenecks, and with dropout: Jégou et al. 2017,
    arXiv:1611.09326, Table 1.
    """

    def __init__(self, in_channels: int, num_layers: int, growth_rate: int, dropout: float) -> None:
        super().__init__()
        self.out_channels = num_layers * growth_rate
        self.layers = nn.ModuleList(
            NormActConv(in_channels + i * growth_rate, growth_rate, batch_norm=True, dropout=dropout)
            for i in range(num_layers)
        )

    def forward(self, x: Tensor) -> Tensor:
        stack = [x]
        for layer in self.layers:
            stack.append(layer(torch.cat(stack, dim=1)))
        return torch.cat(stack[1:], dim=1)
