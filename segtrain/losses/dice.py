"""Soft Dice loss."""

from segtrain.losses.tversky import Tversky, check_smooth


class Dice(Tversky):
    """1 - soft Dice coefficient, averaged over the classes present in the batch.

        dice_c = (2 * sum_i p_i[c] * t_i[c] + s)  /  (sum_i p_i[c] + sum_i t_i[c] + s)

    with softmax probabilities p, one-hot labels t and smoothing s. Over which pixels the sums run, and what becomes of
    absent classes, says `Tversky`.

    Args:
        num_classes: number of classes C.
        ignore_index: label of pixels that take no part.
        smooth: s, in pixels, at least 0. Softens the loss of classes with about as few pixels.

    Raises:
        ConfigError: `smooth` is negative.

    Source: Milletari et al. 2016, arXiv:1606.04797, with plain rather than squared denominators.
    """

    def __init__(self, num_classes: int, ignore_index: int, smooth: float) -> None:
        check_smooth(smooth)
        # Dice has twice the Tversky index's numerator and denominator, and so twice its smoothing.
        super().__init__(num_classes, ignore_index, alpha=0.5, beta=0.5, exponent=1.0, smooth=smooth / 2)
