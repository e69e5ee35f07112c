"""Xception-65, aligned and deepened as DeepLab v3+ has it."""

import re
from collections import OrderedDict
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from segtrain.backbones.base import Backbone
from segtrain.errors import CheckpointError
from segtrain.nn import dilation
from segtrain.nn.conv import ConvNormAct, SeparableConvNormAct
from segtrain.nn.init import he_init
from segtrain.nn.norm import BatchNorm2d
from segtrain.types import Feature
from segtrain.weights import load_weights

NUM_MIDDLE = 16  # blocks of the middle flow; Chollet's Xception has 8


class Xception65(Backbone):
    """Entry flow, sixteen middle blocks, exit flow; every pooling of Xception is a strided separable convolution here.

    Features: `entry1` (128 channels, stride 2), `entry2` (256, 4), `entry3` (728, 8), `exit1` (1024, 16), each inside
    the block of that name: after its second separable convolution, before the ReLU and the stride; and `exit2` (2048,
    32) after the last. DeepLab v3+ decodes from `entry2`: `entry_flow/block2/.../separable_conv2_pointwise` in its
    authors' code.

    BatchNorm follows every depthwise convolution, as the paper says. The paper's ReLU after it stands, in its authors'
    code and weights, only in the last block; the others have theirs before each separable convolution. Theirs is built
    here, and timm's `xception65` equals it. Initialised by `he_init`.

    Args:
        weights: path of a state dict in timm's names (`from_timm`) or in this network's, or None. `imagenet` is
            refused: segtrain downloads only what it can verify, and of this file no hash is published (with
            model/backbone=timm it is timm that downloads it).
        output_stride: of `exit2`.
        dilate_strided: as in `stride_to_dilation`.
        multi_grid: three factors for the dilations of `exit2`'s separable convolutions; None: 1, 1, 1.

    Raises:
        ConfigError: `output_stride` or `multi_grid` is impossible.
        CheckpointError: the weights are missing, damaged, or another network's.

    Source: Chen et al. 2018, arXiv:1802.02611, section 3.2 and Figure 4; Xception: Chollet 2017, arXiv:1610.02357.
    """

    def __init__(
        self,
        in_channels: int,
        weights: str | None,
        output_stride: Literal[8, 16, 32],
        dilate_strided: bool,
        multi_grid: list[int] | None,
    ) -> None:
        plain = [("entry1", 128, 2), ("entry2", 256, 4), ("entry3", 728, 8), ("exit1", 1024, 16), ("exit2", 2048, 32)]
        super().__init__(
            in_channels, [Feature(name, channels, min(stride, output_stride)) for name, channels, stride in plain]
        )
        self.stem = nn.Sequential(
            ConvNormAct(in_channels, 32, stride=2, batch_norm=True), ConvNormAct(32, 64, batch_norm=True)
        )
        self.entry1 = XceptionBlock(64, (128, 128, 128), stride=2)
        self.entry2 = XceptionBlock(128, (256, 256, 256), stride=2)
        self.entry3 = XceptionBlock(256, (728, 728, 728), stride=2)
        self.middle = nn.ModuleList(XceptionBlock(728, (728, 728, 728), stride=1) for _ in range(NUM_MIDDLE))
        self.exit1 = XceptionBlock(728, (728, 1024, 1024), stride=2)
        self.exit2 = nn.Sequential(
            OrderedDict(
                conv1=SeparableConvNormAct(1024, 1536, norm_between=True),
                conv2=SeparableConvNormAct(1536, 1536, norm_between=True),
                conv3=SeparableConvNormAct(1536, 2048, norm_between=True),
            )
        )
        for layer in self.modules():
            if isinstance(layer, BatchNorm2d):
                layer.eps = 1e-3  # what the published weights were trained with
        he_init(self)
        stages: list[tuple[int, list[nn.Module]]] = [
            (2, [self.stem]),
            (4, [self.entry1]),
            (8, [self.entry2]),
            (16, [self.entry3, *self.middle]),
            (32, [self.exit1, self.exit2]),
        ]
        dilation.hold_output_stride(stages, output_stride, dilate_strided)
        if multi_grid is not None:
            dilation.multi_grid(list(self.exit2), multi_grid)
        if weights is not None:
            self._load(weights)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        x = self.run(self.stem, images)
        entry1, x = self.run(self.entry1, x)
        entry2, x = self.run(self.entry2, x)
        entry3, x = self.run(self.entry3, x)
        for block in self.middle:
            _, x = self.run(block, x)
        exit1, x = self.run(self.exit1, x)
        return {"entry1": entry1, "entry2": entry2, "entry3": entry3, "exit1": exit1, "exit2": self.run(self.exit2, x)}

    def _load(self, weights: str) -> None:
        if weights == "imagenet":
            raise CheckpointError(
                "model.backbone.weights=imagenet: no hash is published for Xception-65's weights; fetch "
                "https://huggingface.co/timm/xception65.tf_in1k/resolve/main/model.safetensors and give its path"
            )
        load_weights(self, weights, None, stem="stem.0.conv.weight", drop=("head.fc.",), rename=from_timm)


class XceptionBlock(nn.Module):
    """Three separable convolutions, a ReLU before each, around which a shortcut leads.

    [N, in_channels, H, W] -> the map after the second, [N, channels[1], H, W], before any ReLU; and the block's output,
    [N, channels[2], ceil(H / stride), ceil(W / stride)].

    Args:
        channels: of the three separable convolutions.
        stride: of the third, and of the shortcut, which is a 1x1 convolution then and the input itself otherwise.
    """

    def __init__(self, in_channels: int, channels: tuple[int, int, int], stride: int) -> None:
        super().__init__()
        first, second, third = channels
        self.conv1 = SeparableConvNormAct(in_channels, first, norm_between=True, relu=False)
        self.conv2 = SeparableConvNormAct(first, second, norm_between=True, relu=False)
        self.conv3 = SeparableConvNormAct(second, third, norm_between=True, relu=False, stride=stride)
        self.shortcut: nn.Module = nn.Identity()  # registered last: `stride_to_dilation` reads layers in running order
        if stride > 1:
            conv = nn.Conv2d(in_channels, third, kernel_size=1, stride=stride, bias=False)
            self.shortcut = nn.Sequential(OrderedDict(conv=conv, norm=BatchNorm2d(third)))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        inner = self.conv2(F.relu(self.conv1(F.relu(x))))
        return inner, self.conv3(F.relu(inner)) + self.shortcut(x)


def from_timm(name: str) -> str:
    """timm's name of a parameter of its `xception65` -> ours: `blocks.3.stack.conv1.bn_dw.bias` ->
    `middle.0.conv1.depthwise_norm.bias`; a name that is not of that network stays as it is."""
    block = re.match(r"blocks\.(\d+)\.(?:stack\.)?", name)
    if block is not None:
        blocks = ["entry1", "entry2", "entry3", *(f"middle.{i}" for i in range(NUM_MIDDLE)), "exit1", "exit2"]
        if int(block[1]) >= len(blocks):
            return name
        name = f"{blocks[int(block[1])]}.{name[block.end() :]}"
    layers = {"conv_dw": "depthwise", "bn_dw": "depthwise_norm", "conv_pw": "pointwise", "bn_pw": "norm", "bn": "norm"}
    return ".".join(layers.get(part, part) for part in name.split("."))
