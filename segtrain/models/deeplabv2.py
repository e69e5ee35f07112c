"""DeepLab v2: atrous spatial pyramid pooling, and the image at several scales."""

from fractions import Fraction
from functools import reduce

import torch
from torch import Tensor

from segtrain.backbones.base import Backbone
from segtrain.errors import ConfigError
from segtrain.models.base import SegmentationModel
from segtrain.nn.anysize import is_size_free
from segtrain.nn.aspp import SummedASPP
from segtrain.nn.resize import resize_to
from segtrain.types import ModelOutput


class DeepLabV2(SegmentationModel):
    """A backbone held at stride 8 and `SummedASPP` on its deepest feature, run on the image at each of `scales`.

    At every pixel and class the largest logit over the scales counts, in training as in evaluation. In training every
    scale's own logits are an auxiliary output, `scale_1`, `scale_0.75` ..., whose loss counts 1, as in the released
    network; but here all losses are taken at the image's size, where the paper shrinks the labels to the map's.
    Auxiliary heads read the backbone at full scale. Of one scale there is nothing to fuse and none of this.

    Args:
        atrous_rates: see `SummedASPP`.
        branch_channels: likewise.
        dropout: likewise.
        scales: factors for the image's height and width, in [0.1, 4], 1 among them, different in six digits.

    Raises:
        ConfigError: a number is out of its range.

    Source: Chen et al. 2017, arXiv:1606.00915, section 3.2 (both ways to several scales).
    """

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        atrous_rates: list[int],
        branch_channels: int | None,
        dropout: float,
        scales: list[float],
    ) -> None:
        super().__init__(backbone, num_classes)
        names = {_name(scale) for scale in scales}
        if 1 not in scales or len(names) < len(scales) or not all(0.1 <= scale <= 4 for scale in scales):
            raise ConfigError(
                f"model.scales={scales}: give numbers in [0.1, 4], different in their first six digits, 1.0 among them"
            )
        self.scales = scales
        self.aspp = SummedASPP(backbone.deepest.channels, num_classes, atrous_rates, branch_channels, dropout)
        if len(scales) > 1:
            self.aux_weights |= {_name(scale): 1.0 for scale in scales}

    def decode(self, features: dict[str, Tensor], size: tuple[int, int]) -> Tensor:
        logits: Tensor = self.aspp(features[self.backbone.deepest.name])
        return logits

    def forward(self, images: Tensor, upsample: bool = True) -> ModelOutput:
        if len(self.scales) == 1:
            return super().forward(images, upsample)
        full = super().forward(images)  # the scales meet at the images' size
        by_scale = {
            _name(scale): full.logits if scale == 1 else self._logits_at(scale, images) for scale in self.scales
        }
        fused = reduce(torch.maximum, by_scale.values())
        return ModelOutput(fused, full.aux | by_scale if self.training else {})

    def _logits_at(self, scale: float, images: Tensor) -> Tensor:
        """The logits of the image resized by `scale`, resized back."""
        height, width = (_scaled(length, scale) for length in images.shape[-2:])
        features = self.encode(resize_to(images, (height, width)))
        return resize_to(self.decode(features, (height, width)), images)


def _name(scale: float) -> str:
    return f"scale_{scale:g}"


def _scaled(length: int, scale: float) -> int:
    """`scale * length`, rounded to the nearest whole number, halves to the even one, at least 1."""
    if not is_size_free():
        return max(1, round(scale * length))
    # ONNX knows no such rounding of a size: the same in whole numbers, for images of at least 10 pixels a side.
    ratio = Fraction(scale).limit_denominator(1000)
    exact, whole = ratio.numerator * length, ratio.denominator
    return (2 * exact + whole - 1 + exact // whole % 2) // (2 * whole)
