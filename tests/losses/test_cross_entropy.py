"""Cross-entropy: values by hand, equality with torch, and what every loss must hold."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import tensor

from segtrain.errors import ConfigError
from segtrain.losses import CrossEntropy

IGNORE = 255


def cross_entropy(num_classes=3, class_weights=None, label_smoothing=0.0):
    return CrossEntropy(num_classes, IGNORE, class_weights=class_weights, label_smoothing=label_smoothing)


def batch(dtype=torch.int64):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 5, 7, generator=generator)
    labels = torch.randint(0, 3, (2, 5, 7), generator=generator)
    labels[:, 0] = IGNORE
    return logits, labels.to(dtype)


def test_value_by_hand_averages_over_valid_pixels_only():
    probabilities = tensor([[0.5, 0.5], [0.25, 0.75], [0.9, 0.1]])  # [pixel, class]
    logits = probabilities.log().T.reshape(1, 2, 1, 3)
    labels = tensor([[[0, 1, IGNORE]]])
    expected = (-math.log(0.5) - math.log(0.75)) / 2
    assert cross_entropy(2)(logits, labels).item() == pytest.approx(expected, rel=1e-6)


def test_class_weights_divide_by_the_weights_of_the_valid_pixels():
    logits = tensor([[0.5, 0.5], [0.25, 0.75], [0.9, 0.1]]).log().T.reshape(1, 2, 1, 3)
    labels = tensor([[[0, 1, IGNORE]]])
    expected = (1 * -math.log(0.5) + 3 * -math.log(0.75)) / (1 + 3)
    assert cross_entropy(2, [1.0, 3.0])(logits, labels).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
@pytest.mark.parametrize("class_weights", [None, [0.5, 2.0, 0.0]])
def test_equals_torch(class_weights, label_smoothing):
    logits, labels = batch()
    weight = None if class_weights is None else tensor(class_weights)
    expected = F.cross_entropy(logits, labels, weight, ignore_index=IGNORE, label_smoothing=label_smoothing)
    torch.testing.assert_close(cross_entropy(3, class_weights, label_smoothing)(logits, labels), expected)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32])
def test_labels_of_any_integer_dtype(dtype):
    assert cross_entropy()(*batch(dtype)) == cross_entropy()(*batch())


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_only_pixels_of_a_class_with_weight_0_give_0(label_smoothing):
    logits = torch.randn(1, 2, 2, 2, requires_grad=True)
    loss = cross_entropy(2, [0.0, 1.0], label_smoothing)(logits, torch.zeros(1, 2, 2, dtype=torch.int64))
    loss.backward()
    assert loss.item() == 0
    assert logits.grad.eq(0).all()


def test_class_weights_travel_in_the_state():
    assert cross_entropy(3, [1.0, 2.0, 3.0]).state_dict()["class_weights"].tolist() == [1.0, 2.0, 3.0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"class_weights": [1.0, 2.0]}, "2 weights for 3 classes"),
        ({"class_weights": [1.0, -2.0, 1.0]}, r"class_weights\[1\]: -2.0"),
        ({"class_weights": [1.0, math.nan, 1.0]}, r"class_weights\[1\]: nan"),
        ({"class_weights": [0.0, 0.0, 0.0]}, "every weight is 0"),
        ({"label_smoothing": 1.0}, "label_smoothing: 1.0"),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(ConfigError, match=message):
        cross_entropy(3, **options)


def binary_batch():
    """z [2, 1, 5, 7], what a model of one channel gives and the logits made of it, and labels."""
    generator = torch.Generator().manual_seed(5)
    z = 3 * torch.randn(2, 1, 5, 7, generator=generator)
    labels = torch.randint(0, 2, (2, 5, 7), generator=generator)
    labels[:, 0] = IGNORE
    return z, torch.cat([torch.zeros_like(z), z], dim=1), labels


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_of_a_binary_task_it_is_torchs_binary_cross_entropy(smoothing):
    z, logits, labels = binary_batch()
    valid = labels != IGNORE
    target = labels[valid].float() * (1 - smoothing) + smoothing / 2
    expected = F.binary_cross_entropy_with_logits(z[:, 0][valid], target)
    torch.testing.assert_close(cross_entropy(2, None, smoothing)(logits, labels), expected)


def test_of_a_binary_task_the_foregrounds_weight_is_torchs_pos_weight_but_for_the_denominator():
    z, logits, labels = binary_batch()
    valid = labels != IGNORE
    target = labels[valid].float()
    total = F.binary_cross_entropy_with_logits(z[:, 0][valid], target, pos_weight=tensor(3.0), reduction="sum")
    torch.testing.assert_close(cross_entropy(2, [1.0, 3.0])(logits, labels), total / (target * 2 + 1).sum())
