"""Cross-entropy over the hard pixels."""

import math

from torch import Tensor

from segtrain.errors import ConfigError
from segtrain.losses.base import SegmentationLoss
from segtrain.losses.pixelwise import PixelwiseLoss, weighted_mean


class OhemCrossEntropy(PixelwiseLoss):
    """Cross-entropy with online hard example mining: averaged over the hard pixels of the batch only.

        loss = sum_i w[y_i] * -log p_i[y_i]  /  sum_i w[y_i]        over hard pixels i, w = 1 without class weights

    A valid pixel is hard where the probability of its true class is below `threshold`, or among the K lowest of the
    batch, K = `min_kept` * N. So at least K pixels are kept (all, where fewer are valid), and pixels as hard as the
    K-th all are. Which pixels are hard is decided without class weights, and no gradient flows through the decision.

    Args:
        num_classes: number of classes C.
        ignore_index: label of pixels that take no part.
        class_weights: one non-negative weight per class, or None for 1 each; see `PixelwiseLoss`.
        threshold: probability in (0, 1].
        min_kept: pixels per image of the batch, at least 1.

    Raises:
        ConfigError: wrong class weights; `threshold` or `min_kept` out of range.

    Source: Shrivastava et al. 2016, arXiv:1604.03540, for regions; over pixels with a threshold and a minimum as HRNet
    (whose minimum is of the batch) and mmsegmentation (of the image, as here).
    """

    def __init__(
        self,
        num_classes: int,
        ignore_index: int,
        class_weights: list[float] | None,
        threshold: float,
        min_kept: int,
    ) -> None:
        super().__init__(num_classes, ignore_index, class_weights)
        if not 0 < threshold <= 1:
            raise ConfigError(f"threshold: {threshold} is outside (0, 1]; 0.7 is customary, 1 is plain cross-entropy")
        if min_kept < 1:
            raise ConfigError(f"min_kept: {min_kept} must be at least 1 pixel per image; 100000 is customary")
        self.threshold = threshold
        self.min_kept = min_kept

    def denominator(self, labels: Tensor) -> Tensor:
        """The number of valid pixels: which of them are hard, labels alone do not say."""
        return SegmentationLoss.denominator(self, labels)

    def compute(self, logits: Tensor, labels: Tensor, valid: Tensor) -> Tensor:
        losses = self.negative_log_likelihood(logits, labels)
        weights = self.pixel_weights(labels, self._hard(losses.detach(), valid))
        return weighted_mean(losses * weights, weights)

    def _hard(self, losses: Tensor, valid: Tensor) -> Tensor:
        """[N, H, W] bool. Compares losses, not probabilities: those of lost pixels all round to 0."""
        min_kept = min(self.min_kept * len(losses), losses.numel())
        # Ignored pixels come last, with a loss of 0. topk: kthvalue has no deterministic CUDA kernel.
        hardest = losses.flatten().topk(min_kept).values
        return valid & ((losses > -math.log(self.threshold)) | (losses >= hardest[-1]))
