"""OHEM cross-entropy: by hand, against a slow reference, and plain cross-entropy at its limits."""

import math

import pytest
import torch
from torch import tensor

from segtrain.errors import ConfigError
from segtrain.losses import CrossEntropy, OhemCrossEntropy

IGNORE = 255
# True-class probabilities of four pixels, one ignored, as logits [1, 2, 1, 5] with label 0.
LOGITS = tensor([[0.2, 0.8], [0.6, 0.4], [0.1, 0.9], [0.9, 0.1], [0.5, 0.5]]).log().T.reshape(1, 2, 1, 5)
LABELS = tensor([[[0, 0, IGNORE, 0, 0]]])


def ohem(num_classes=2, class_weights=None, threshold=0.7, min_kept=1):
    return OhemCrossEntropy(num_classes, IGNORE, class_weights, threshold, min_kept)


def reference(class_weights, threshold, min_kept):
    def loss(logits, labels):
        pixels = []
        for n, y, x in (labels != IGNORE).nonzero().tolist():
            label = labels[n, y, x]
            weight = 1.0 if class_weights is None else class_weights[label]
            pixels.append((logits[n, :, y, x].softmax(0)[label], weight))
        pixels.sort(key=lambda pixel: pixel[0].item())
        kept = [pixel for rank, pixel in enumerate(pixels) if rank < min_kept * len(logits) or pixel[0] < threshold]
        return sum(-weight * p.log() for p, weight in kept) / sum(weight for _, weight in kept)

    return loss


@pytest.mark.parametrize(
    ("threshold", "min_kept", "kept"),
    [
        (0.7, 1, [0.2, 0.5, 0.6]),
        (0.3, 1, [0.2]),
        (0.1, 2, [0.2, 0.5]),  # the minimum: the two hardest
        (0.1, 99, [0.2, 0.5, 0.6, 0.9]),  # more than there are: all
        (1.0, 1, [0.2, 0.5, 0.6, 0.9]),
    ],
)
def test_keeps_pixels_below_the_threshold_and_a_minimum(threshold, min_kept, kept):
    expected = sum(-math.log(p) for p in kept) / len(kept)
    assert ohem(threshold=threshold, min_kept=min_kept)(LOGITS, LABELS).item() == pytest.approx(expected, rel=1e-6)


def test_only_kept_pixels_get_a_gradient():
    logits = LOGITS.clone().requires_grad_()
    ohem(threshold=0.55)(logits, LABELS).backward()
    assert logits.grad[0, 0, 0].ne(0).tolist() == [True, False, False, False, True]


def test_min_kept_is_per_image_of_the_batch_wherever_the_hardest_are():
    logits, labels = torch.cat([LOGITS, LOGITS - LOGITS]), LABELS.repeat(2, 1, 1)
    logits[1, 0] = 9.0  # an easy image
    expected = (-math.log(0.2) - math.log(0.5)) / 2
    assert ohem(threshold=0.1, min_kept=1)(logits, labels).item() == pytest.approx(expected, rel=1e-6)


def test_the_minimum_ranks_pixels_whose_probabilities_are_all_0_in_float32():
    logits = tensor([[200.0, 300.0, 400.0]]).reshape(1, 1, 1, 3) * tensor([-1.0, 0.0]).view(1, 2, 1, 1)
    assert ohem(threshold=1e-300, min_kept=1)(logits, torch.zeros(1, 1, 3, dtype=torch.int64)).item() == 400


@pytest.mark.parametrize("options", [(None, 0.3, 1), (None, 1e-3, 5), ([1.0, 0.5, 2.0, 0.1], 0.5, 1)])
def test_equals_the_reference(case, check_reference, options):
    logits, labels = case
    class_weights, threshold, min_kept = options
    class_weights = class_weights and class_weights[: logits.shape[1]]
    loss = ohem(logits.shape[1], class_weights, threshold, min_kept)
    check_reference(loss, reference(class_weights, threshold, min_kept), logits, labels)


@pytest.mark.parametrize("class_weights", [None, [0.5, 2.0, 0.0, 1.0]])
def test_keeping_every_pixel_is_cross_entropy(class_weights):
    logits = torch.randn(2, 4, 5, 7, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(70).view(2, 5, 7) % 4
    plain = CrossEntropy(4, IGNORE, class_weights, label_smoothing=0.0)
    assert ohem(4, class_weights, min_kept=35)(logits, labels) == plain(logits, labels)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threshold": 0.0}, "threshold: 0.0"),
        ({"threshold": 1.1}, "threshold: 1.1"),
        ({"min_kept": 0}, "min_kept: 0"),
        ({"class_weights": [1.0]}, "1 weights for 2 classes"),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(ConfigError, match=message):
        ohem(**options)
