"""Focal loss: by hand, against a slow reference, and equality with torchvision and segmentation_models.pytorch."""

import math

import pytest
import torch
from torch import tensor
from torchvision.ops import sigmoid_focal_loss

from segtrain.errors import ConfigError
from segtrain.losses import CrossEntropy, Focal

IGNORE = 255


def focal(num_classes=2, class_weights=None, gamma=2.0):
    return Focal(num_classes, IGNORE, class_weights, gamma)


def reference(class_weights, gamma):
    def loss(logits, labels):
        total, denominator = 0.0, 0.0
        for n, y, x in (labels != IGNORE).nonzero().tolist():
            label = labels[n, y, x]
            weight = 1.0 if class_weights is None else class_weights[label]
            p = logits[n, :, y, x].softmax(0)[label]
            total = total - weight * (1 - p) ** gamma * p.log()
            denominator += weight
        return total / denominator

    return loss


def two_classes():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 2, 5, 7, generator=generator)
    return logits, torch.randint(0, 2, (2, 5, 7), generator=generator)


def test_value_by_hand():
    logits = tensor([[0.5, 0.5], [0.25, 0.75], [0.9, 0.1]]).log().T.reshape(1, 2, 1, 3)
    expected = (-(0.5**2) * math.log(0.5) - 0.25**2 * math.log(0.75)) / 2
    assert focal()(logits, tensor([[[0, 1, IGNORE]]])).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0, 5.0])
@pytest.mark.parametrize("class_weights", [None, [1.0, 0.5, 2.0, 0.1]])
def test_equals_the_reference(case, check_reference, class_weights, gamma):
    logits, labels = case
    class_weights = class_weights and class_weights[: logits.shape[1]]
    check_reference(focal(logits.shape[1], class_weights, gamma), reference(class_weights, gamma), logits, labels)


@pytest.mark.parametrize("class_weights", [None, [0.5, 2.0]])
def test_gamma_0_is_cross_entropy(class_weights):
    logits, labels = two_classes()
    plain = CrossEntropy(2, IGNORE, class_weights, label_smoothing=0.0)
    assert focal(2, class_weights, gamma=0.0)(logits, labels) == plain(logits, labels)


def test_two_classes_are_torchvisions_sigmoid_form_on_the_difference_of_the_logits():
    logits, labels = two_classes()
    theirs = sigmoid_focal_loss(logits[:, 1] - logits[:, 0], labels.float(), alpha=-1, gamma=2.0, reduction="mean")
    torch.testing.assert_close(focal()(logits, labels), theirs)


def test_two_classes_are_segmentation_models_pytorchs_binary_form():
    # Their multiclass form is another: a sigmoid for each class against the rest.
    smp = pytest.importorskip("segmentation_models_pytorch")
    logits, labels = two_classes()
    labels[0, 0] = IGNORE
    theirs = smp.losses.FocalLoss(mode="binary", gamma=2.0, ignore_index=IGNORE)
    torch.testing.assert_close(focal()(logits, labels), theirs(logits[:, 1] - logits[:, 0], labels))


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
def test_a_pixel_already_right_costs_0_and_has_a_finite_gradient(gamma):
    logits = tensor([100.0, 0.0]).view(1, 2, 1, 1).requires_grad_()
    loss = focal(gamma=gamma)(logits, tensor([[[0]]]))
    loss.backward()
    assert loss.item() == 0
    assert logits.grad.abs().max() < 1e-6


@pytest.mark.parametrize(
    ("options", "message"), [({"gamma": -1.0}, "gamma: -1"), ({"class_weights": [0.0, 0.0]}, "every weight is 0")]
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(ConfigError, match=message):
        focal(**options)
