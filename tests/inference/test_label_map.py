"""Which class a pixel is of."""

import pytest
import torch
from torch import tensor

from segtrain.inference import label_map


def binary(*z: float) -> torch.Tensor:
    """[1, 2, 1, len(z)]: the logits of a binary task."""
    return torch.stack([torch.zeros(len(z)), tensor(z)])[None, :, None]


def test_without_a_threshold_the_highest_logit_decides_and_the_first_of_equal_ones():
    logits = tensor([[0.0, 2.0, 1.0], [1.0, 2.0, -1.0], [0.5, 1.0, 3.0]])[None, :, None]
    assert label_map(logits, None).tolist() == [[[1, 0, 2]]]


def test_a_pixel_exactly_at_the_threshold_is_foreground():
    assert label_map(binary(-1e-6, 0.0, 1e-6), 0.5).tolist() == [[[0, 1, 1]]]


@pytest.mark.parametrize("threshold", [0.1, 0.3, 0.7, 0.99])
def test_foreground_is_what_has_at_least_the_probability(threshold):
    z = torch.linspace(-8, 8, 1001)
    labels = label_map(binary(*z.tolist()), threshold)[0, 0]
    assert torch.equal(labels, (z.sigmoid() >= threshold).long())
    assert 0 < labels.sum() < len(z)


def test_any_two_logits_of_equal_difference_are_one_answer():
    logits = binary(-2.0, 0.5, 3.0)
    assert torch.equal(label_map(logits + 7, 0.4), label_map(logits, 0.4))


def test_extreme_logits_are_decided():
    assert label_map(binary(-1e4, 1e4), 0.999).tolist() == [[[0, 1]]]


def test_labels_are_counted_with_int64():
    assert label_map(binary(0.0), 0.5).dtype == label_map(binary(0.0), None).dtype == torch.int64
