"""Fully convolutional networks: the first ones, with skips, and the dilated one that torchvision has."""

from itertools import pairwise
from typing import Literal

from torch import Tensor, nn

from segtrain.backbones.base import Backbone
from segtrain.errors import ConfigError
from segtrain.models.auxiliary import FCNAuxiliary
from segtrain.models.base import SegmentationModel
from segtrain.nn.checks import check_share
from segtrain.nn.conv import ScoreConv2d
from segtrain.nn.upsampling import BilinearUpsampling, LearnedUpsampling
from segtrain.types import Feature

Upsampling = Literal["learned", "fixed"]

SKIP_STRIDES = (16, 8)


class FCN(SegmentationModel):
    """Class scores at stride 32, added to those of finer features on the way up: FCN-32s, FCN-16s, FCN-8s.

    A 1x1 convolution scores the classes on the deepest feature, and one on each skip. On the way up, the scores are
    upsampled to the next skip's stride, cut to its size, and the skip's are added; from `finest_stride` they are
    upsampled to the image at once. A score of stride s thus stands for s x s pixels, those that its poolings saw.
    The published network pads the image by 100 pixels and crops; here every convolution pads instead.

    All score layers start at zero: a new network predicts nothing, and one that takes over a coarser network's weights
    predicts what that one did. Zero weights send no gradient down, so the first step moves score layers only.
    Upsampling starts bilinear.

    Staged training: what FCN-32s, FCN-16s and FCN-8s have in common has one name. Load the weights of one into the next
    finer, not strictly: `score.stride16` and `upsample.32to16` are new, then `score.stride8` and `upsample.16to8`.
    The paper lowers the learning rate a hundredfold at each stage.

    Args:
        backbone: ends at a stride above or equal to `finest_stride`; has features at the strides from there to 16.
        finest_stride: of the finest skip, 8 or 16; the deepest feature's own stride: no skip.
        upsampling: of the steps between skips. `learned`: a transposed convolution that starts bilinear, the paper's;
            `fixed`: bilinear, as in the authors' later release, without a significant difference.
        final_upsampling: to the image; the paper's is `fixed`.
        skip_scales: constants on the features at strides 16 and 8, in this order, before they are scored. 1, 1 for
            training in stages; 0.01, 0.0001 bring VGG's streams to one order of magnitude, to train all at once.

    Raises:
        ConfigError: the backbone ends above `finest_stride`, or lacks a skip's stride; a scale is not positive.

    Source: Long et al. 2015, arXiv:1411.4038, sections 4.2 and 4.3, Figure 3; at once: Shelhamer et al. 2016,
    arXiv:1605.06211; scales and fixed upsampling: the authors' release (voc-fcn8s-atonce).
    """

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        finest_stride: Literal[8, 16, 32],
        upsampling: Upsampling,
        final_upsampling: Upsampling,
        skip_scales: list[float],
    ) -> None:
        super().__init__(backbone, num_classes)
        if len(skip_scales) != len(SKIP_STRIDES) or not all(scale > 0 for scale in skip_scales):
            raise ConfigError(f"model.skip_scales={skip_scales}: give two positive numbers, for strides 16 and 8")
        self.streams = _streams(backbone, finest_stride)
        self.scales = dict(zip(SKIP_STRIDES, skip_scales, strict=True))
        self.score = nn.ModuleDict({f"stride{f.stride}": _zero_score(f.channels, num_classes) for f in self.streams})
        self.upsample = nn.ModuleDict(
            {
                f"{coarse.stride}to{fine.stride}": _upsampling(upsampling, num_classes, coarse.stride // fine.stride)
                for coarse, fine in pairwise(self.streams)
            }
        )
        finest = self.streams[-1].stride
        self.upsample[f"{finest}to1"] = _upsampling(final_upsampling, num_classes, finest)

    def decode(self, features: dict[str, Tensor], size: tuple[int, int]) -> Tensor:
        coarse = self.streams[0]
        scores = self.score[f"stride{coarse.stride}"](features[coarse.name])
        for fine in self.streams[1:]:
            skip = self.score[f"stride{fine.stride}"](self.scales[fine.stride] * features[fine.name])
            scores = _cut(self.upsample[f"{coarse.stride}to{fine.stride}"](scores), *skip.shape[-2:]) + skip
            coarse = fine
        return _cut(self.upsample[f"{coarse.stride}to1"](scores), *size)


class DilatedFCN(SegmentationModel):
    """torchvision's FCN: a 3x3 convolution and a classifier on the deepest feature, which dilation keeps fine.

    The head is the one that `FCNAuxiliary` puts on an earlier feature: a quarter of the channels, BatchNorm, ReLU,
    dropout, 1x1. Initialised by `he_init`.

    Args:
        dropout: in [0, 1), before the classifier; torchvision's is 0.1.

    Raises:
        ConfigError: `dropout` out of range.
    """

    def __init__(self, backbone: Backbone, num_classes: int, dropout: float) -> None:
        super().__init__(backbone, num_classes)
        check_share("model.dropout", dropout)
        self.head = FCNAuxiliary(backbone.deepest, num_classes, dropout)

    def decode(self, features: dict[str, Tensor], size: tuple[int, int]) -> Tensor:
        logits: Tensor = self.head(features[self.head.feature])
        return logits


def _streams(backbone: Backbone, finest_stride: int) -> tuple[Feature, ...]:
    """The features that are scored, deepest first."""
    deepest = backbone.deepest
    if deepest.stride < finest_stride:
        finer = " or ".join(str(stride) for stride in SKIP_STRIDES if stride <= deepest.stride)
        raise ConfigError(
            f"model.finest_stride={finest_stride}: {type(backbone).__name__} ends at stride {deepest.stride}; take one "
            f"that goes on to {finest_stride}{f', or set it to {finer}' if finer else ''}"
        )
    strides = [stride for stride in SKIP_STRIDES if finest_stride <= stride < deepest.stride]
    return (deepest, *(backbone.feature(stride=stride) for stride in strides))


def _zero_score(channels: int, num_classes: int) -> ScoreConv2d:
    score = ScoreConv2d(channels, num_classes, 1)
    for parameter in score.parameters():
        nn.init.zeros_(parameter)
    return score


def _upsampling(kind: Upsampling, channels: int, factor: int) -> nn.Module:
    return LearnedUpsampling(channels, factor) if kind == "learned" else BilinearUpsampling(factor)


def _cut(x: Tensor, height: int, width: int) -> Tensor:
    return x[..., :height, :width]
