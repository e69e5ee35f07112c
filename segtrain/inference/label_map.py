"""From logits to the class of every pixel."""

import torch
from torch import Tensor

from segtrain.inference.score_map import ScoreMap

CLASSES_AT_ONCE = 8  # that many times 4 bytes for every pixel of the images


def label_map(scores: Tensor | ScoreMap, threshold: float | None) -> Tensor:
    """The class of each pixel, int64; evaluation and prediction both decide here.

    A score map is brought to its images' size a band of classes at a time, so that memory does not grow with their
    number; the labels are those of the whole.

    Args:
        scores: [N, C, H, W] logits, or a map of them.
        threshold: None: the class with the highest logit, of equal ones the first. Otherwise C is 2, and a pixel is of
            class 1 where its probability, the sigmoid of the logits' difference, is at least this.

    Returns: [N, H, W].
    """
    if threshold is not None:
        background, foreground = (scores if isinstance(scores, Tensor) else scores.full()).unbind(dim=1)
        return ((foreground - background).sigmoid() >= threshold).long()
    if isinstance(scores, Tensor):
        return scores.argmax(dim=1)
    return _argmax_by_bands(scores) if scores.resizes else scores.values.argmax(dim=1)


def _argmax_by_bands(scores: ScoreMap) -> Tensor:
    highest, labels = scores.classes(0, CLASSES_AT_ONCE).max(dim=1)
    for start in range(CLASSES_AT_ONCE, scores.num_classes, CLASSES_AT_ONCE):
        band, places = scores.classes(start, start + CLASSES_AT_ONCE).max(dim=1)
        higher = band > highest  # not where equal: there the first class stays
        labels = torch.where(higher, places.add_(start), labels)
        highest = torch.where(higher, band, highest)
    return labels
