"""Boundary loss: distances and values by hand, against a slow reference, and scipy's distance transform."""

import numpy as np
import pytest
import torch
from torch import tensor

from segtrain.losses import Boundary
from segtrain.losses.boundary import signed_distances

IGNORE = 255


def phi(labels, num_classes=2):
    labels = np.asarray(labels)
    return signed_distances(labels, labels != IGNORE, num_classes)


def reference(logits, labels):
    """The definition, pixel by pixel."""
    total, num_terms = 0.0, 0
    for scores, image in zip(logits, labels, strict=True):
        valid = (image != IGNORE).nonzero().tolist()
        classes = image[image != IGNORE].unique().tolist()
        for c in classes if len(classes) > 1 else []:
            for y, x in valid:
                is_inside = image[y, x] == c
                others = [(v, u) for v, u in valid if (image[v, u] == c) != is_inside]
                distance = min(((v - y) ** 2 + (u - x) ** 2) ** 0.5 for v, u in others)
                total = total + (1 - distance if is_inside else distance) * scores[:, y, x].softmax(0)[c]
                num_terms += 1
    return total / num_terms if num_terms else logits[:0].sum()


def test_distances_by_hand_from_1_outside_and_from_0_inside():
    distances, num_classes = phi([[0, 0, 0, 1, 1]])
    assert distances.tolist() == [[[-2, -1, 0, 1, 2]], [[3, 2, 1, 0, -1]]]
    assert num_classes == 2


def test_distances_are_euclidean():
    distances, _ = phi([[1, 0, 0], [0, 0, 0]])
    np.testing.assert_allclose(distances[1], [[0, 1, 2], [1, 2**0.5, 5**0.5]], rtol=1e-6)


def test_no_distance_is_measured_to_an_ignored_pixel_and_none_is_given_to_it():
    distances, _ = phi([[0, 0, IGNORE, 1, 1]])
    assert distances.tolist() == [[[-2, -1, 0, 2, 3]], [[3, 2, 0, -1, -2]]]


@pytest.mark.parametrize("labels", [[[1, 1], [1, IGNORE]], [[IGNORE, IGNORE]]], ids=["one class", "no class"])
def test_without_two_classes_there_is_no_boundary(labels):
    distances, num_classes = phi(labels)
    assert num_classes == 0
    assert not distances.any()


def test_absent_classes_have_no_boundary():
    distances, num_classes = phi([[0, 2]], num_classes=4)
    assert num_classes == 2
    assert distances.tolist() == [[[0, 1]], [[0, 0]], [[1, 0]], [[0, 0]]]


def test_distances_equal_scipys_in_the_authors_formula():
    ndimage = pytest.importorskip("scipy.ndimage")
    labels = np.random.default_rng(0).integers(0, 3, (31, 40))
    distances, _ = phi(labels, num_classes=3)
    for c in range(3):
        inside = labels == c
        outer, inner = ndimage.distance_transform_edt(~inside), ndimage.distance_transform_edt(inside)
        np.testing.assert_allclose(distances[c], outer * ~inside - (inner - 1) * inside, rtol=1e-6, atol=1e-6)


def test_value_by_hand_is_a_mean_over_pixels_and_classes_with_a_boundary():
    logits = tensor([[0.5, 0.4, 0.1], [0.3, 0.6, 0.1], [0.2, 0.7, 0.1]]).log().T.reshape(1, 3, 1, 3)
    # phi: class 0 [0, 1, 2], class 1 [1, 0, -1], class 2 absent
    expected = (0.5 * 0 + 0.3 * 1 + 0.2 * 2 + 0.4 * 1 + 0.6 * 0 - 0.7 * 1) / 6
    assert Boundary(3, IGNORE)(logits, tensor([[[0, 1, 1]]])).item() == pytest.approx(expected, abs=1e-7)


def test_equals_the_reference(case, check_reference):
    check_reference(Boundary(case[0].shape[1], IGNORE), reference, *case)


def test_is_least_where_the_prediction_is_right():
    labels = tensor([[[0, 0, 1, 1, 2, 2]]])
    right = torch.nn.functional.one_hot(labels, 3).movedim(-1, 1) * 1e4
    least = Boundary(3, IGNORE)(right, labels)
    assert least < 0
    for step in (1, 2, 3):
        assert Boundary(3, IGNORE)(right.roll(step, dims=-1), labels) > least
