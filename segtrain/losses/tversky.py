"""The Tversky loss, of whose family Dice and Jaccard are."""

import torch
from torch import Tensor

from segtrain.errors import ConfigError
from segtrain.losses.base import SegmentationLoss


class Tversky(SegmentationLoss):
    """(1 - Tversky index)^exponent, averaged over the classes present in the batch.

        index_c = (TP_c + s) / (TP_c + alpha * FP_c + beta * FN_c + s)

        TP_c = sum_i p_i[c] * t_i[c]        FP_c = sum_i p_i[c] * (1 - t_i[c])        FN_c = sum_i (1 - p_i[c]) * t_i[c]

    with softmax probabilities p, one-hot labels t and smoothing s, the sums running over the valid pixels of the whole
    batch (not image by image: a class absent from one picture would dominate). Absent classes are left out of the
    mean; what is predicted of them still counts, as missing probability of the true class.

    alpha = beta = 1/2 is Dice, 2 TP / (2 TP + FP + FN), and alpha = beta = 1 is Jaccard, TP / (TP + FP + FN). An
    exponent other than 1 makes it the focal Tversky loss, class by class before the mean.

    Args:
        num_classes: number of classes C.
        ignore_index: label of pixels that take no part.
        alpha: what a false positive costs, at least 0.
        beta: what a false negative costs, above 0.
        exponent: above 0. Abraham and Khan write it 1 / gamma.
        smooth: s, in pixels, at least 0. Softens the loss of classes with about as few pixels.

    Raises:
        ConfigError: an option is out of range.

    Source: Salehi et al. 2017, arXiv:1706.05721; with an exponent Abraham and Khan 2018, arXiv:1810.07842, whose
    alpha and beta are the other way round.
    """

    def __init__(
        self, num_classes: int, ignore_index: int, alpha: float, beta: float, exponent: float, smooth: float
    ) -> None:
        super().__init__(num_classes, ignore_index)
        if not alpha >= 0:
            raise ConfigError(f"alpha: {alpha} is negative; give what a false positive costs, such as 0.3")
        if not beta > 0:
            raise ConfigError(f"beta: {beta} must be above 0; give what a false negative costs, such as 0.7")
        if not exponent > 0:
            raise ConfigError(f"exponent: {exponent} must be above 0; 1 is the Tversky loss, 0.75 the focal one")
        check_smooth(smooth)
        self.alpha = alpha
        self.beta = beta
        self.exponent = exponent
        self.smooth = smooth

    def compute(self, logits: Tensor, labels: Tensor, valid: Tensor) -> Tensor:
        classes = torch.arange(self.num_classes, device=logits.device).view(1, -1, 1, 1)
        valid = valid.unsqueeze(1)
        target = (labels.unsqueeze(1) == classes) & valid
        probabilities = logits.softmax(dim=1).masked_fill(~valid, 0)

        over_pixels = (0, 2, 3)
        overlap = probabilities.masked_fill(~target, 0).sum(over_pixels)  # TP
        predicted = probabilities.sum(over_pixels)  # TP + FP
        true = target.sum(over_pixels)  # TP + FN
        present = true > 0
        union = (1 - self.alpha - self.beta) * overlap + self.alpha * predicted + self.beta * true
        # The denominator of an absent class may be 0; its quotient is thrown away, but must not be NaN.
        index = (overlap + self.smooth) / (union + self.smooth).masked_fill(~present, 1)
        return (self._focus(1 - index) * present).sum() / present.sum().clamp(min=1)

    def _focus(self, loss: Tensor) -> Tensor:
        """loss^exponent; 0 with slope 0 below float32's resolution, where the slope of a root grows without bounds."""
        if self.exponent == 1:
            return loss
        positive = loss > torch.finfo(torch.float32).eps
        return loss.where(positive, 1) ** self.exponent * positive


def check_smooth(smooth: float) -> None:
    """Raise ConfigError unless `smooth` is at least 0."""
    if not smooth >= 0:
        raise ConfigError(f"smooth: {smooth} is negative; give 0 (none) or a number of pixels such as 1")
