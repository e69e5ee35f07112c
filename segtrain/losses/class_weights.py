"""Class weights computed from how often each class occurs in the training data."""

import logging
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from segtrain.errors import DataError

Rule = Literal["enet", "median_frequency"]

logger = logging.getLogger(__name__)


def class_weights(rule: Rule, pixels: NDArray[np.integer], image_pixels: NDArray[np.integer]) -> list[float]:
    """One weight per class, larger for rarer classes.

    `enet`: 1 / ln(1.02 + p), with p the class's share of all labelled pixels; between 1.4 (p = 1) and 50.5 (p -> 0).
        Paszke et al. 2016, arXiv:1606.02147.
    `median_frequency`: median(f) / f, with f the class's pixels divided by the pixels of the images it occurs in, so
        that a class is not called rare for occurring in few images; the median is over the classes present.
        Eigen and Fergus 2015, arXiv:1411.4734, as used for SegNet, arXiv:1511.00561.

    A class without a single pixel cannot be learnt and has no frequency: it gets weight 0 and is named in a warning.

    Args:
        rule: which of the two.
        pixels: [C], labelled pixels of each class in the training split.
        image_pixels: [C], labelled pixels, of any class, in the images where the class occurs.

    Raises:
        DataError: no class has a pixel.
    """
    pixels = np.asarray(pixels, dtype=np.int64)
    image_pixels = np.asarray(image_pixels, dtype=np.int64)
    present = pixels > 0
    if not present.any():
        raise DataError(f"class_weights={rule}: the training split has no labelled pixel to count; check its labels")
    if not present.all():
        absent = ", ".join(map(str, np.flatnonzero(~present)))
        logger.warning("class_weights=%s: no pixel of class %s in the training split; weight 0", rule, absent)

    weights = np.zeros(len(pixels))
    if rule == "enet":
        weights[present] = 1 / np.log(1.02 + pixels[present] / pixels.sum())
    elif rule == "median_frequency":
        frequency = pixels[present] / image_pixels[present]
        weights[present] = np.median(frequency) / frequency
    else:
        raise ValueError(f"unknown rule {rule!r}")
    return [float(weight) for weight in weights]
