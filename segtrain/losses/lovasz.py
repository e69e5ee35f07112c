"""Convex surrogates of 1 - IoU by the Lovasz extension: Lovasz-Softmax and Lovasz hinge."""

import torch
from torch import Tensor

from segtrain.losses.base import SegmentationLoss


class _Lovasz(SegmentationLoss):
    """The Lovasz extension of 1 - IoU at each class's errors, averaged over the classes present.

    Present means with a valid pixel in the batch, or in the image where `per_image`. What is predicted of absent
    classes still counts, as an error of the true class.

    Args:
        num_classes: number of classes C.
        ignore_index: label of pixels that take no part.
        per_image: the mean, over the images with a valid pixel, of each image's loss, instead of one loss over the
            pixels of the whole batch.
    """

    def __init__(self, num_classes: int, ignore_index: int, per_image: bool) -> None:
        super().__init__(num_classes, ignore_index)
        self.per_image = per_image

    def scores(self, logits: Tensor) -> Tensor:
        """What errors are measured from, [N, C, H, W]."""
        raise NotImplementedError

    def errors(self, scores: Tensor, target: Tensor) -> Tensor:
        """How wrong each pixel is about one class, at least 0.

        Args:
            scores: of that class, any shape.
            target: bool, of that shape: where the class is the true one.
        """
        raise NotImplementedError

    def compute(self, logits: Tensor, labels: Tensor, valid: Tensor) -> Tensor:
        scores = self.scores(logits)
        whole = [(scores.movedim(1, 0), labels, valid)]
        groups = list(zip(scores, labels, valid, strict=True)) if self.per_image else whole
        losses = [self._mean_over_classes(*group) for group in groups if group[2].any()]
        return torch.stack(losses).mean() if losses else logits[:0].sum()

    def _mean_over_classes(self, scores: Tensor, labels: Tensor, valid: Tensor) -> Tensor:
        """Of scores [C, ...] and labels [...]."""
        losses = []
        for class_index in labels[valid].unique().tolist():
            target = labels == class_index
            # An ignored pixel, of no such class and without error, comes last in the order and changes no other's step.
            errors = self.errors(scores[class_index], target).masked_fill(~valid, 0)
            losses.append(lovasz_extension(errors.flatten(), target.flatten()))
        return torch.stack(losses).mean()


class LovaszSoftmax(_Lovasz):
    """Lovasz-Softmax: the Lovasz extension of 1 - IoU at |t - p|, averaged over the classes present.

    The error of pixel i about class c is 1 - p_i[c] where c is the true class and p_i[c] elsewhere, p the softmax
    probabilities. Where p is 0 or 1 everywhere the loss is 1 - mIoU over the classes present in the labels.

    Args, classes present: see `_Lovasz`.

    Source: Berman et al. 2018, arXiv:1705.08790, section 3 and algorithm 1.
    """

    def scores(self, logits: Tensor) -> Tensor:
        return logits.softmax(dim=1)

    def errors(self, scores: Tensor, target: Tensor) -> Tensor:
        return torch.where(target, 1 - scores, scores)


class LovaszHinge(_Lovasz):
    """Lovasz hinge, one class against the rest, averaged over the classes present.

    The error of pixel i about class c is max(0, 1 - m) where c is the true class and max(0, 1 + m) elsewhere. The
    margin m = z_i[c] - max_{d != c} z_i[d] is positive where the highest logit z is that of c, so that the loss is
    never below 1 - mIoU of the predicted labels, over the classes present. The paper has the hinge for two classes
    only: there m is the difference of the two logits, and this is the mean of its losses for foreground and background.

    Args, classes present: see `_Lovasz`. At least two classes.

    Source: Berman et al. 2018, arXiv:1705.08790, algorithm 1; the hinge is Yu and Blaschko 2015,
    arXiv:1512.07797.
    """

    def scores(self, logits: Tensor) -> Tensor:
        highest, where = logits.topk(2, dim=1)
        classes = torch.arange(self.num_classes, device=logits.device).view(1, -1, 1, 1)
        return logits - torch.where(classes == where[:, :1], highest[:, 1:], highest[:, :1])

    def errors(self, scores: Tensor, target: Tensor) -> Tensor:
        return (1 - torch.where(target, scores, -scores)).relu()


def lovasz_extension(errors: Tensor, target: Tensor) -> Tensor:
    """The Lovasz extension of the Jaccard loss 1 - IoU, at real errors.

    With the errors in descending order, sum_i errors_i * (J_i - J_{i-1}), J_i the Jaccard loss if the first i pixels
    were wrong and the others right. At errors of 0 and 1 that is the Jaccard loss itself. Equal errors are taken in the
    order of the pixels.

    Args:
        errors: [P], at least 0.
        target: [P] bool, True somewhere.
    """
    with torch.no_grad():
        order = errors.sort(descending=True, stable=True).indices
        missed = target[order]
        # Counted in integers: exact beyond float32's 2^24 pixels, and deterministic on CUDA.
        num_missed = missed.cumsum(0)
        size = target.sum()
        intersection = size - num_missed
        union = size + torch.arange(1, len(errors) + 1, device=errors.device) - num_missed
        # J_i - J_{i-1} with J = 1 - intersection / union, written out: subtracting two near 1 leaves float32's noise.
        added = intersection / (union * (union - 1).clamp(min=1))
        steps = torch.where(missed, 1 / union, added)
        weights = torch.empty_like(steps).scatter_(0, order, steps)
    return (errors * weights).sum()
