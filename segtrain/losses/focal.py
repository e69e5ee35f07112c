"""Focal loss over pixels."""

import torch
from torch import Tensor

from segtrain.errors import ConfigError
from segtrain.losses.pixelwise import PixelwiseLoss, weighted_mean


class Focal(PixelwiseLoss):
    """Cross-entropy in which well classified pixels count little, averaged over the valid pixels of the batch.

        loss = sum_i w[y_i] * (1 - p_i[y_i])^gamma * -log p_i[y_i]  /  sum_i w[y_i]        over valid pixels i

    with softmax probabilities p. The paper's alpha is the class weight w, and the denominator is that of
    cross-entropy, not the paper's number of anchors: with gamma = 0 this is `CrossEntropy`. With two classes it is
    the paper's sigmoid form on the difference of the two logits.

    Args:
        num_classes: number of classes C.
        ignore_index: label of pixels that take no part.
        class_weights: one non-negative weight per class, or None for 1 each; see `PixelwiseLoss`.
        gamma: at least 0.

    Raises:
        ConfigError: wrong class weights; `gamma` is negative.

    Source: Lin et al. 2017, arXiv:1708.02002, equation 5, with softmax instead of sigmoid.
    """

    def __init__(self, num_classes: int, ignore_index: int, class_weights: list[float] | None, gamma: float) -> None:
        super().__init__(num_classes, ignore_index, class_weights)
        if not gamma >= 0:
            raise ConfigError(f"gamma: {gamma} must be at least 0; 2 is customary, 0 is cross-entropy")
        self.gamma = gamma

    def compute(self, logits: Tensor, labels: Tensor, valid: Tensor) -> Tensor:
        losses = self.negative_log_likelihood(logits, labels)
        # 1 - p; below float32's resolution of p, x^gamma with gamma < 1 has a slope without bounds.
        missing = (-torch.expm1(-losses)).clamp(min=torch.finfo(torch.float32).eps)
        weights = self.pixel_weights(labels, valid)
        return weighted_mean(missing**self.gamma * losses * weights, weights)
