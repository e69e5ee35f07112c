"""Cross-entropy over pixels."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from segtrain.errors import ConfigError
from segtrain.losses.base import SegmentationLoss


class CrossEntropy(SegmentationLoss):
    """Softmax cross-entropy, averaged over the valid pixels of the batch.

        loss = sum_i w[y_i] * -log p_i[y_i]  /  sum_i w[y_i]        over valid pixels i, w = 1 without class weights

    With class weights the denominator is the sum of the weights of the valid pixels, as in torch: doubling every
    weight changes nothing. Where that sum is 0 (every pixel ignored, or of a class with weight 0) the loss is 0.

    Args:
        num_classes: number of classes C.
        ignore_index: label of pixels that take no part.
        class_weights: one non-negative weight per class, or None for 1 each. Kept as a buffer, so the loss's
            state says what the run was trained with.
        label_smoothing: share s in [0, 1) of the target spread evenly over all C classes, the true one included
            (Szegedy et al. 2016, arXiv:1512.00567, section 7); each class's part carries that class's weight.

    Raises:
        ConfigError: a wrong number of weights, a negative one, none above 0; `label_smoothing` out of range.
    """

    class_weights: Tensor | None

    def __init__(
        self, num_classes: int, ignore_index: int, class_weights: list[float] | None, label_smoothing: float
    ) -> None:
        super().__init__(num_classes, ignore_index)
        if not 0 <= label_smoothing < 1:
            raise ConfigError(f"label_smoothing: {label_smoothing} is outside [0, 1); 0.1 is customary, 0 is off")
        if class_weights is not None:
            check_class_weights(class_weights, num_classes)
        weights = None if class_weights is None else torch.tensor(class_weights, dtype=torch.float32)
        self.register_buffer("class_weights", weights)
        self.label_smoothing = label_smoothing

    def compute(self, logits: Tensor, labels: Tensor, valid: Tensor) -> Tensor:
        # Summed here rather than by `reduction="sum"`, which has no deterministic CUDA kernel.
        per_pixel = F.cross_entropy(
            logits,
            labels,
            weight=self.class_weights,
            ignore_index=self.ignore_index,
            reduction="none",
            label_smoothing=self.label_smoothing,
        )
        if self.class_weights is None:
            return per_pixel.sum() / valid.sum().clamp(min=1)
        pixel_weights = self.class_weights[labels.masked_fill(~valid, 0)] * valid
        denominator = pixel_weights.sum()
        # With label smoothing a pixel of weight 0 still has a loss: the selection drops it where nothing else is left.
        return torch.where(denominator > 0, per_pixel.sum() / denominator.clamp(min=1e-12), 0 * per_pixel.sum())


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
