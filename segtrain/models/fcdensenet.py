"""FC-DenseNet, the Tiramisu: U-Net made of dense blocks."""

import torch
from torch import Tensor, nn

from segtrain.backbones.base import Backbone
from segtrain.models.strides import HalvingModel, stage_numbers
from segtrain.nn.checks import check_positive, check_share
from segtrain.nn.dense import DenseBlock
from segtrain.nn.init import he_init


class FCDenseNet(HalvingModel):
    """Dense blocks climb back to the image: each hands on its new maps only, upsampled and stacked on the next skip.

    Over `FCDenseNetEncoder` it is the published network. It runs over any backbone of halving strides: the first
    transition up then narrows the deepest feature to what the paper's bottleneck would have handed on. Over one that
    starts at stride 2 or 4, the last blocks have no skip to join. Initialised by `he_init`, uniform.

    Args:
        growth_rate: new maps of each layer.
        layers: of the dense blocks at strides ..., 16, 8, 4, 2, 1: the last number belongs to stride 1. Only those
            above the backbone's deepest feature are used.
        bottleneck_channels: of the deepest feature once upsampled: the bottleneck's own number in the paper.
        dropout: share of each convolution's values set to zero in training, in [0, 1).

    Raises:
        ConfigError: too few `layers` for the backbone, whose strides must be powers of two; a number out of range.

    Source: Jégou et al. 2017, arXiv:1611.09326, Figure 1, Tables 1 and 2; biases left out where a BatchNorm cancels
    them.
    """

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        growth_rate: int,
        layers: list[int],
        bottleneck_channels: int,
        dropout: float,
    ) -> None:
        super().__init__(backbone, num_classes)
        check_positive("model.growth_rate", growth_rate)
        check_positive("model.bottleneck_channels", bottleneck_channels)
        check_share("model.dropout", dropout)
        counts = stage_numbers(layers, self.strides, "model.layers")
        channels, up_channels = backbone.deepest.channels, bottleneck_channels
        for stride, skip, num_layers in zip(self.strides, self.skip_features, counts, strict=True):
            stack_channels = up_channels + (skip.channels if skip is not None else 0)
            block = DenseBlock(stack_channels, num_layers, growth_rate, dropout)
            stage = UpStage(channels, up_channels, block, keep_stack=stride == 1)
            channels = stack_channels + block.out_channels if stride == 1 else block.out_channels
            up_channels = channels
            self.add_stage(stage, channels)
        self.head = nn.Conv2d(channels, num_classes, 1)
        he_init(self.decoder, "uniform")
        he_init(self.head, "uniform")


class UpStage(nn.Module):
    """Transition up, concatenation of the skip, dense block.

    x: [N, in_channels, h, w], skip: [N, skip_channels, H, W] or None -> [N, C, H, W] with (H, W) = `size`, where
    h = ceil(H / 2) and w = ceil(W / 2).

    Args:
        up_channels: of the transition up, a transposed 3x3 convolution of stride 2.
        block: reads `up_channels` and the skip.
        keep_stack: C is everything, what the block read and its new maps, as the classifier wants it; else only the
            new maps.
    """

    def __init__(self, in_channels: int, up_channels: int, block: DenseBlock, keep_stack: bool) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(in_channels, up_channels, 3, stride=2, bias=False)
        self.block = block
        self.keep_stack = keep_stack

    def forward(self, x: Tensor, size: tuple[int, int], skip: Tensor | None) -> Tensor:
        stack = self.up(x)[..., : size[0], : size[1]]  # it gives 2 h + 1, one or two too many
        if skip is not None:
            stack = torch.cat([stack, skip], dim=1)
        new: Tensor = self.block(stack)
        return torch.cat([stack, new], dim=1) if self.keep_stack else new
