"""Class weights: the two papers' formulas by hand."""

import math

import numpy as np
import pytest

from segtrain.errors import DataError
from segtrain.losses.class_weights import class_weights

PIXELS = np.array([600, 300, 100])
IMAGE_PIXELS = np.array([1000, 1000, 500])  # the third class occurs in one of two images of 500 pixels


def test_enet_by_hand():
    expected = [1 / math.log(1.02 + share) for share in (0.6, 0.3, 0.1)]
    assert class_weights("enet", PIXELS, IMAGE_PIXELS) == pytest.approx(expected)


def test_enet_bounds_rare_classes_near_50():
    assert class_weights("enet", np.array([10**9, 1]), np.array([10**9, 10**9]))[1] == pytest.approx(50.5, abs=0.05)


def test_median_frequency_by_hand():
    # frequencies 0.6, 0.3 and 100 / 500 = 0.2; median 0.3
    assert class_weights("median_frequency", PIXELS, IMAGE_PIXELS) == pytest.approx([0.5, 1.0, 1.5])


@pytest.mark.parametrize("rule", ["enet", "median_frequency"])
def test_class_without_pixels_gets_0_changes_no_other_and_is_said_once(rule, caplog):
    weights = class_weights(rule, np.insert(PIXELS, 1, 0), np.insert(IMAGE_PIXELS, 1, 0))
    assert weights[1] == 0
    assert [weights[0], *weights[2:]] == class_weights(rule, PIXELS, IMAGE_PIXELS)
    assert len(caplog.records) == 1
    assert "class 1 " in caplog.text


def test_counts_beyond_float32_are_exact():
    many = np.array([2**40 + 1, 2**40 - 1])
    assert class_weights("median_frequency", many, np.array([2**41, 2**41])) == pytest.approx([1, 1], rel=1e-11)


def test_no_pixel_at_all_is_an_error():
    with pytest.raises(DataError, match="no labelled pixel"):
        class_weights("enet", np.zeros(3, dtype=np.int64), np.zeros(3, dtype=np.int64))
