"""What every loss over logits and labels shares."""

import torch
from torch import Tensor, nn


class SegmentationLoss(nn.Module):
    """A loss over [N, C, H, W] logits and [N, H, W] labels; subclasses write `compute`.

    Here stands what must hold for each of them: any integer dtype of labels is accepted, and the arithmetic is
    float32 whatever autocast says, because a float16 sum over a million pixels overflows.

    Args:
        num_classes: C.
        ignore_index: label of pixels that take no part in the loss.
    """

    def __init__(self, num_classes: int, ignore_index: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.ignore_index = ignore_index

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The loss as a float32 scalar.

        Args:
            logits: [N, C, H, W] of any float dtype, unnormalised.
            labels: [N, H, W] of any integer dtype, in [0, C) or `ignore_index`.

        Raises:
            ValueError: the shapes do not belong together (broadcasting would hide it).
        """
        n, _, h, w = logits.shape
        if logits.shape[1] != self.num_classes or labels.shape != (n, h, w):
            raise ValueError(
                f"{type(self).__name__}: logits {list(logits.shape)} and labels {list(labels.shape)}: "
                f"expected [N, {self.num_classes}, H, W] and [N, H, W]"
            )
        labels = labels.long()
        with torch.autocast(logits.device.type, enabled=False):
            return self.compute(logits.float(), labels, labels != self.ignore_index)

    def denominator(self, labels: Tensor) -> Tensor:
        """What the mean over these labels is divided by, as a float32 scalar, known before any logits.

        With it the losses of several batches become that of all of them together. Here it is the number of valid
        pixels: exact for a plain mean over pixels, and near for other losses (regions, surrogates of IoU, hard
        pixels), whose value over two batches does not follow from the two values.

        Args:
            labels: [N, H, W] of any integer dtype.
        """
        return (labels != self.ignore_index).sum().float()

    def compute(self, logits: Tensor, labels: Tensor, valid: Tensor) -> Tensor:
        """The loss over the pixels where `valid`; exactly 0, with a graph, where there is none.

        Args:
            logits: [N, C, H, W] float32.
            labels: [N, H, W] int64.
            valid: [N, H, W] bool, False at ignored pixels.
        """
        raise NotImplementedError
