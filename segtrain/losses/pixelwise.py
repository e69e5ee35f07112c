"""What losses that are a mean over pixels share: class weights, and the denominator."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from segtrain.errors import ConfigError
from segtrain.losses.base import SegmentationLoss


class PixelwiseLoss(SegmentationLoss):
    """A mean over pixels in which each counts as much as its class.

        loss = sum_i w[y_i] * l_i  /  sum_i w[y_i]        over the pixels i that count, w = 1 without class weights

    With class weights the denominator is the sum of the weights of those pixels, as in torch: doubling every weight
    changes nothing. Where that sum is 0 (every pixel ignored, or of a class with weight 0) the loss is 0. A class
    absent from the batch has no pixel, and so no part.

    Args:
        num_classes: number of classes C.
        ignore_index: label of pixels that take no part.
        class_weights: one non-negative weight per class, or None for 1 each. Kept as a buffer, so the loss's
            state says what the run was trained with.

    Raises:
        ConfigError: a wrong number of weights, a negative one, none above 0.
    """

    class_weights: Tensor | None

    def __init__(self, num_classes: int, ignore_index: int, class_weights: list[float] | None) -> None:
        super().__init__(num_classes, ignore_index)
        if class_weights is not None:
            check_class_weights(class_weights, num_classes)
        weights = None if class_weights is None else torch.tensor(class_weights, dtype=torch.float32)
        self.register_buffer("class_weights", weights)

    def denominator(self, labels: Tensor) -> Tensor:
        """The sum of the valid pixels' class weights."""
        labels = labels.long()
        return self.pixel_weights(labels, labels != self.ignore_index).sum().float()

    def negative_log_likelihood(self, logits: Tensor, labels: Tensor) -> Tensor:
        """-log p_i[y_i], [N, H, W]; 0 at ignored pixels."""
        return F.cross_entropy(logits, labels, ignore_index=self.ignore_index, reduction="none")

    def pixel_weights(self, labels: Tensor, counted: Tensor) -> Tensor:
        """w[y_i] where `counted`, a subset of the valid pixels, and 0 elsewhere: [N, H, W]."""
        if self.class_weights is None:
            return counted
        return self.class_weights[labels.masked_fill(~counted, 0)] * counted


def weighted_mean(weighted: Tensor, weights: Tensor) -> Tensor:
    """Sum of losses that carry their weights already, over the sum of those weights; 0 with a graph where that is 0.

    Summed here rather than by torch's `reduction="mean"`, which has no deterministic CUDA kernel.
    """
    denominator = weights.sum()
    empty = denominator == 0
    return weighted.sum().masked_fill(empty, 0) / denominator.masked_fill(empty, 1)


def check_class_weights(weights: list[float], num_classes: int) -> None:
    """Raise ConfigError unless there is one finite, non-negative weight per class, and one above 0."""
    if len(weights) != num_classes:
        raise ConfigError(
            f"class_weights: {len(weights)} weights for {num_classes} classes; give one per class, in the order of "
            f"the data's class names, or enet | median_frequency | null"
        )
    for index, weight in enumerate(weights):
        if not (math.isfinite(weight) and weight >= 0):
            raise ConfigError(f"class_weights[{index}]: {weight} is not a weight; it must be finite and at least 0")
    if not any(weights):
        raise ConfigError("class_weights: every weight is 0, which leaves nothing to learn; give some class more")
