"""Soft Jaccard loss."""

from segtrain.losses.tversky import Tversky


class Jaccard(Tversky):
    """1 - soft intersection over union, averaged over the classes present in the batch.

        jaccard_c = (I_c + s) / (sum_i p_i[c] + sum_i t_i[c] - I_c + s)        I_c = sum_i p_i[c] * t_i[c]

    with softmax probabilities p, one-hot labels t and smoothing s. Over which pixels the sums run, and what becomes of
    absent classes, says `Tversky`. Where p is 0 or 1 everywhere it is 1 - mIoU over the classes present in the labels.

    Args:
        num_classes: number of classes C.
        ignore_index: label of pixels that take no part.
        smooth: s, in pixels, at least 0. Softens the loss of classes with about as few pixels.

    Raises:
        ConfigError: `smooth` is negative.

    Source: Rahman and Wang 2016, "Optimizing Intersection-Over-Union in Deep Neural Networks for Image Segmentation",
    ISVC; here class by class.
    """

    def __init__(self, num_classes: int, ignore_index: int, smooth: float) -> None:
        super().__init__(num_classes, ignore_index, alpha=1.0, beta=1.0, exponent=1.0, smooth=smooth)
