"""From logits to the class of every pixel."""

from torch import Tensor


def label_map(logits: Tensor, threshold: float | None) -> Tensor:
    """The class of each pixel, int64; evaluation and prediction both decide here.

    Args:
        logits: [N, C, H, W].
        threshold: None: the class with the highest logit, of equal ones the first. Otherwise C is 2, and a pixel is of
            class 1 where its probability, the sigmoid of the logits' difference, is at least this.

    Returns: [N, H, W].
    """
    if threshold is None:
        return logits.argmax(dim=1)
    background, foreground = logits.unbind(dim=1)
    return ((foreground - background).sigmoid() >= threshold).long()
