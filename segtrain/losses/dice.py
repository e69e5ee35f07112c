"""Soft Dice loss."""

import torch
from torch import Tensor

from segtrain.errors import ConfigError
from segtrain.losses.base import SegmentationLoss


class Dice(SegmentationLoss):
    """1 - soft Dice coefficient, averaged over the classes present in the batch.

        dice_c = (2 * sum_i p_i[c] * t_i[c] + s)  /  (sum_i p_i[c] + sum_i t_i[c] + s)

    with softmax probabilities p, one-hot labels t and smoothing s, the sums running over the valid pixels of the whole
    batch (not image by image: a class absent from one picture would dominate). Absent classes are left out of the
    mean; what is predicted of them still counts, as missing probability of the true class.

    Args:
        num_classes: number of classes C.
        ignore_index: label of pixels that take no part.
        smooth: s, in pixels, at least 0. Softens the loss of classes with about as few pixels.

    Raises:
        ConfigError: `smooth` is negative.

    Source: Milletari et al. 2016, arXiv:1606.04797, with plain rather than squared denominators.
    """

    def __init__(self, num_classes: int, ignore_index: int, smooth: float) -> None:
        super().__init__(num_classes, ignore_index)
        if smooth < 0:
            raise ConfigError(f"smooth: {smooth} is negative; give 0 (none) or a number of pixels such as 1")
        self.smooth = smooth

    def compute(self, logits: Tensor, labels: Tensor, valid: Tensor) -> Tensor:
        classes = torch.arange(self.num_classes, device=logits.device).view(1, -1, 1, 1)
        valid = valid.unsqueeze(1)
        target = (labels.unsqueeze(1) == classes) & valid
        probabilities = logits.softmax(dim=1).masked_fill(~valid, 0)

        over_pixels = (0, 2, 3)
        intersection = probabilities.masked_fill(~target, 0).sum(over_pixels)
        target_size = target.sum(over_pixels)
        size = probabilities.sum(over_pixels) + target_size
        present = target_size > 0
        # The denominator of an absent class may be 0; its quotient is thrown away, but must not be NaN.
        dice = (2 * intersection + self.smooth) / (size + self.smooth).masked_fill(~present, 1)
        return ((1 - dice) * present).sum() / present.sum().clamp(min=1)
