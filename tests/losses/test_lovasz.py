"""Lovasz-Softmax and Lovasz hinge: by hand, against a slow reference, equality with other libraries, bounds."""

import pytest
import torch
from torch import tensor

from segtrain.losses import LovaszHinge, LovaszSoftmax
from segtrain.losses.lovasz import lovasz_extension

IGNORE = 255


def jaccard_loss(wrong, target):
    """1 - IoU of the prediction that is wrong at the pixels `wrong`, as sets: the definition."""
    truth = {i for i, is_true in enumerate(target) if is_true}
    predicted = truth ^ set(wrong)
    return 1 - len(truth & predicted) / len(truth | predicted)


def slow_extension(errors, target):
    order = sorted(range(len(errors)), key=lambda i: -errors[i].item())
    return sum(
        errors[i] * (jaccard_loss(order[: rank + 1], target) - jaccard_loss(order[:rank], target))
        for rank, i in enumerate(order)
    )


def softmax_error(logits, label, c):
    p = logits.softmax(0)[c]
    return 1 - p if label == c else p


def hinge_error(logits, label, c):
    margin = logits[c] - max(logits[d] for d in range(len(logits)) if d != c)
    return (1 - margin if label == c else 1 + margin).clamp(min=0)


def reference(error, per_image):
    def of_pixels(logits, labels):  # [P, C], [P]
        losses = []
        for c in labels.unique():
            errors = [error(z, label, c) for z, label in zip(logits, labels, strict=True)]
            losses.append(slow_extension(errors, (labels == c).tolist()))
        return sum(losses) / len(losses)

    def loss(logits, labels):
        logits = logits.movedim(1, -1)
        images = list(zip(logits, labels, strict=True)) if per_image else [(logits, labels)]
        losses = [of_pixels(z[y != IGNORE], y[y != IGNORE]) for z, y in images if (y != IGNORE).any()]
        return sum(losses) / len(losses)

    return loss


def batch(num_classes=3, labels_below=3):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, num_classes, 8, 9, generator=generator)
    labels = torch.randint(0, labels_below, (2, 8, 9), generator=generator)
    labels[:, 0] = IGNORE
    return logits, labels


def test_extension_by_hand():
    # In descending order 0.8 (a false alarm), 0.5 (a miss), 0.2 (a false alarm), of a class of two pixels. Its IoU
    # falls from 1 to 2/3, 1/3 and 1/4, and with the last pixel, a miss without error, to 0.
    errors, target = tensor([0.5, 0.8, 0.0, 0.2]), tensor([True, False, True, False])
    expected = 0.8 * (1 / 3) + 0.5 * (1 / 3) + 0.2 * (1 / 12)
    assert lovasz_extension(errors, target).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("wrong", [[], [0], [2], [0, 3], [0, 1, 2, 3, 4]])
def test_extension_at_errors_of_0_and_1_is_the_jaccard_loss(wrong):
    target = [True, True, False, False, True]
    errors = tensor([float(i in wrong) for i in range(5)])
    assert lovasz_extension(errors, tensor(target)).item() == pytest.approx(jaccard_loss(wrong, target), abs=1e-7)


def test_gradient_of_a_pixel_in_a_large_map_is_exact():
    # Pixel k of n false alarms about one true pixel without error: J rises from 1 - 1 / k to 1 - 1 / (k + 1).
    n = 1_000_000
    errors = torch.linspace(1, 0.5, n).requires_grad_()
    target = torch.zeros(n + 1, dtype=torch.bool)
    target[-1] = True
    lovasz_extension(torch.cat([errors, torch.zeros(1)]), target).backward()
    k = torch.arange(1, n + 1, dtype=torch.float64)
    torch.testing.assert_close(errors.grad.double(), 1 / (k * (k + 1)), rtol=1e-6, atol=0)


@pytest.mark.parametrize("per_image", [False, True])
@pytest.mark.parametrize(("loss", "error"), [(LovaszSoftmax, softmax_error), (LovaszHinge, hinge_error)])
def test_equals_the_reference(case, check_reference, loss, error, per_image):
    check_reference(loss(case[0].shape[1], IGNORE, per_image), reference(error, per_image), *case)


@pytest.mark.parametrize("labels_below", [3, 2], ids=["all present", "absent class"])
@pytest.mark.parametrize("per_image", [False, True])
def test_softmax_equals_segmentation_models_pytorch(per_image, labels_below):
    smp = pytest.importorskip("segmentation_models_pytorch")
    logits, labels = batch(labels_below=labels_below)
    theirs = smp.losses.LovaszLoss(mode="multiclass", per_image=per_image, ignore_index=IGNORE)
    torch.testing.assert_close(LovaszSoftmax(3, IGNORE, per_image)(logits, labels), theirs(logits, labels))


@pytest.mark.parametrize("per_image", [False, True])
def test_hinge_of_two_classes_is_the_mean_of_segmentation_models_pytorchs_for_each(per_image):
    smp = pytest.importorskip("segmentation_models_pytorch")
    logits, labels = batch(num_classes=2, labels_below=2)
    theirs = smp.losses.LovaszLoss(mode="binary", per_image=per_image, ignore_index=IGNORE)
    margin = logits[:, 1] - logits[:, 0]
    flipped = labels.where(labels == IGNORE, 1 - labels)
    expected = (theirs(margin, labels) + theirs(-margin, flipped)) / 2
    torch.testing.assert_close(LovaszHinge(2, IGNORE, per_image)(logits, labels), expected)


def mean_iou(predicted, labels):
    metrics = pytest.importorskip("torchmetrics.functional")
    return metrics.jaccard_index(predicted, labels, "multiclass", num_classes=3, ignore_index=IGNORE)


def test_softmax_of_certain_predictions_is_1_minus_torchmetrics_mean_iou():
    logits, labels = batch()
    certain = 1e4 * torch.nn.functional.one_hot(logits.argmax(1), 3).movedim(-1, 1)
    expected = 1 - mean_iou(logits.argmax(1), labels)
    torch.testing.assert_close(LovaszSoftmax(3, IGNORE, per_image=False)(certain, labels), expected)


@pytest.mark.parametrize("scale", [0.0, 0.1, 1.0, 10.0])
def test_hinge_is_never_below_1_minus_mean_iou(scale):
    logits, labels = batch()
    loss = LovaszHinge(3, IGNORE, per_image=False)(scale * logits, labels)
    assert loss >= 1 - mean_iou((scale * logits).argmax(1), labels)


def test_hinge_costs_0_from_a_margin_of_1():
    labels = batch()[1]
    logits = torch.nn.functional.one_hot(labels.clamp(max=2), 3).movedim(-1, 1).float()
    assert LovaszHinge(3, IGNORE, per_image=False)(logits, labels).item() == 0
