"""Cross-entropy over pixels."""

import torch.nn.functional as F
from torch import Tensor

from segtrain.errors import ConfigError
from segtrain.losses.pixelwise import PixelwiseLoss, weighted_mean


class CrossEntropy(PixelwiseLoss):
    """Softmax cross-entropy, averaged over the valid pixels of the batch.

        loss = sum_i w[y_i] * -log p_i[y_i]  /  sum_i w[y_i]        over valid pixels i, w = 1 without class weights

    Args:
        num_classes: number of classes C.
        ignore_index: label of pixels that take no part.
        class_weights: one non-negative weight per class, or None for 1 each; see `PixelwiseLoss`.
        label_smoothing: share s in [0, 1) of the target spread evenly over all C classes, the true one included
            (Szegedy et al. 2016, arXiv:1512.00567, section 7); each class's part carries that class's weight.

    Raises:
        ConfigError: a wrong number of weights, a negative one, none above 0; `label_smoothing` out of range.
    """

    def __init__(
        self, num_classes: int, ignore_index: int, class_weights: list[float] | None, label_smoothing: float
    ) -> None:
        super().__init__(num_classes, ignore_index, class_weights)
        if not 0 <= label_smoothing < 1:
            raise ConfigError(f"label_smoothing: {label_smoothing} is outside [0, 1); 0.1 is customary, 0 is off")
        self.label_smoothing = label_smoothing

    def compute(self, logits: Tensor, labels: Tensor, valid: Tensor) -> Tensor:
        weighted = F.cross_entropy(
            logits,
            labels,
            weight=self.class_weights,
            ignore_index=self.ignore_index,
            reduction="none",
            label_smoothing=self.label_smoothing,
        )
        return weighted_mean(weighted, self.pixel_weights(labels, valid))
