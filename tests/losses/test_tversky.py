"""Tversky, focal Tversky and Jaccard: by hand, against a slow reference, and equality with other libraries."""

import pytest
import torch
from torch import tensor

from segtrain.errors import ConfigError
from segtrain.losses import Dice, Jaccard, Tversky

IGNORE = 255
# Probabilities of [pixel, class]; the third pixel is ignored.
LOGITS = tensor([[0.5, 0.5], [0.25, 0.75], [0.9, 0.1]]).log().T.reshape(1, 2, 1, 3)
LABELS = tensor([[[0, 1, IGNORE]]])


def tversky(num_classes=2, alpha=0.3, beta=0.7, exponent=1.0, smooth=0.0):
    return Tversky(num_classes, IGNORE, alpha, beta, exponent, smooth)


def reference(alpha, beta, exponent=1.0, smooth=0.0):
    def loss(logits, labels):
        losses = []
        for c in labels[labels != IGNORE].unique():
            tp = fp = fn = 0.0
            for n, y, x in (labels != IGNORE).nonzero().tolist():
                p = logits[n, :, y, x].softmax(0)[c]
                if labels[n, y, x] == c:
                    tp, fn = tp + p, fn + 1 - p
                else:
                    fp = fp + p
            losses.append((1 - (tp + smooth) / (tp + alpha * fp + beta * fn + smooth)) ** exponent)
        return sum(losses) / len(losses)

    return loss


def batch(labels_below=3):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 8, 9, generator=generator)
    labels = torch.randint(0, labels_below, (2, 8, 9), generator=generator)
    labels[:, 0] = IGNORE
    return logits, labels


def test_jaccard_by_hand():
    jaccard_0 = 0.5 / (0.5 + 0.25 + 0.5)
    jaccard_1 = 0.75 / (0.75 + 0.5 + 0.25)
    loss = Jaccard(2, IGNORE, smooth=0.0)(LOGITS, LABELS)
    assert loss.item() == pytest.approx(1 - (jaccard_0 + jaccard_1) / 2, rel=1e-6)


def test_alpha_prices_false_positives_and_beta_false_negatives():
    index_0 = 0.5 / (0.5 + 0.3 * 0.25 + 0.7 * 0.5)
    index_1 = 0.75 / (0.75 + 0.3 * 0.5 + 0.7 * 0.25)
    assert tversky()(LOGITS, LABELS).item() == pytest.approx(1 - (index_0 + index_1) / 2, rel=1e-6)


def test_the_exponent_is_on_each_class_before_the_mean():
    index_0 = 0.5 / (0.5 + 0.3 * 0.25 + 0.7 * 0.5)
    index_1 = 0.75 / (0.75 + 0.3 * 0.5 + 0.7 * 0.25)
    expected = ((1 - index_0) ** 0.75 + (1 - index_1) ** 0.75) / 2
    assert tversky(exponent=0.75)(LOGITS, LABELS).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("smooth", [0.0, 3.0])
@pytest.mark.parametrize(("alpha", "beta", "exponent"), [(0.3, 0.7, 1), (0.3, 0.7, 0.75), (1, 2, 2), (0, 1, 1)])
def test_equals_the_reference(case, check_reference, alpha, beta, exponent, smooth):
    loss = tversky(case[0].shape[1], alpha, beta, exponent, smooth)
    check_reference(loss, reference(alpha, beta, exponent, smooth), *case)


@pytest.mark.parametrize("smooth", [0.0, 3.0])
def test_jaccard_and_dice_equal_the_reference(case, check_reference, smooth):
    num_classes = case[0].shape[1]
    check_reference(Jaccard(num_classes, IGNORE, smooth), reference(1, 1, smooth=smooth), *case)
    check_reference(Dice(num_classes, IGNORE, smooth), reference(0.5, 0.5, smooth=smooth / 2), *case)


@pytest.mark.parametrize("smooth", [0.0, 5.0])
def test_jaccard_and_tversky_equal_segmentation_models_pytorch_with_every_class_present(smooth):
    smp = pytest.importorskip("segmentation_models_pytorch")
    options = {"mode": "multiclass", "ignore_index": IGNORE, "smooth": smooth}
    theirs = smp.losses.JaccardLoss(**options)(*batch())
    torch.testing.assert_close(Jaccard(3, IGNORE, smooth)(*batch()), theirs)
    theirs = smp.losses.TverskyLoss(**options, alpha=0.2, beta=0.8)(*batch())
    torch.testing.assert_close(tversky(3, 0.2, 0.8, 1.0, smooth)(*batch()), theirs)


def test_absent_classes_are_left_out_of_the_mean_where_segmentation_models_pytorch_counts_0():
    smp = pytest.importorskip("segmentation_models_pytorch")
    theirs = smp.losses.JaccardLoss(mode="multiclass", ignore_index=IGNORE)(*batch(labels_below=2))
    torch.testing.assert_close(Jaccard(3, IGNORE, smooth=0.0)(*batch(labels_below=2)), theirs * 3 / 2)


def test_jaccard_of_certain_predictions_is_1_minus_torchmetrics_mean_iou():
    metrics = pytest.importorskip("torchmetrics.functional")
    logits, labels = batch()
    iou = metrics.jaccard_index(logits.argmax(1), labels, "multiclass", num_classes=3, ignore_index=IGNORE)
    certain = 1e4 * torch.nn.functional.one_hot(logits.argmax(1), 3).movedim(-1, 1)
    torch.testing.assert_close(Jaccard(3, IGNORE, smooth=0.0)(certain, labels), 1 - iou)


@pytest.mark.parametrize("exponent", [0.5, 0.75, 1.0, 1.5])
def test_perfect_prediction_costs_0_and_has_a_finite_gradient(exponent):
    labels = batch()[1]
    logits = 100.0 * torch.nn.functional.one_hot(labels.clamp(max=2), 3).permute(0, 3, 1, 2)
    loss = tversky(3, exponent=exponent)(logits.requires_grad_(), labels)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-6)
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("option", [{"alpha": -1.0}, {"beta": 0.0}, {"exponent": 0.0}, {"smooth": -1.0}])
def test_wrong_options_are_named(option):
    ((name, value),) = option.items()
    with pytest.raises(ConfigError, match=f"{name}: {value}"):
        tversky(**option)
