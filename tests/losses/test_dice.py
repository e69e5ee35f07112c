"""Soft Dice: values by hand and equality with segmentation_models.pytorch where the conventions agree."""

import pytest
import torch
from torch import tensor

from segtrain.errors import ConfigError
from segtrain.losses import Dice

IGNORE = 255


def batch(labels_below=3):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 8, 9, generator=generator)
    labels = torch.randint(0, labels_below, (2, 8, 9), generator=generator)
    labels[:, 0] = IGNORE
    return logits, labels


def test_value_by_hand():
    logits = tensor([[0.5, 0.5], [0.25, 0.75], [0.9, 0.1]]).log().T.reshape(1, 2, 1, 3)
    labels = tensor([[[0, 1, IGNORE]]])
    dice_0 = 2 * 0.5 / ((0.5 + 0.25) + 1)
    dice_1 = 2 * 0.75 / ((0.5 + 0.75) + 1)
    assert Dice(2, IGNORE, smooth=0.0)(logits, labels).item() == pytest.approx(1 - (dice_0 + dice_1) / 2, rel=1e-6)


def test_smooth_is_added_to_numerator_and_denominator():
    logits = tensor([0.5, 0.5]).log().reshape(1, 2, 1, 1)
    loss = Dice(2, IGNORE, smooth=2.0)(logits, tensor([[[0]]]))
    assert loss.item() == pytest.approx(1 - (2 * 0.5 + 2) / (0.5 + 1 + 2), rel=1e-6)


def test_perfect_prediction_costs_0():
    labels = batch()[1]
    logits = 100.0 * torch.nn.functional.one_hot(labels.clamp(max=2), 3).permute(0, 3, 1, 2)
    assert Dice(3, IGNORE, smooth=0.0)(logits, labels).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("smooth", [0.0, 5.0])
def test_equals_segmentation_models_pytorch_with_every_class_present(smooth):
    smp = pytest.importorskip("segmentation_models_pytorch")
    logits, labels = batch()
    # Theirs is (TP + s) / (TP + FP / 2 + FN / 2 + s): their s is half of ours.
    theirs = smp.losses.DiceLoss(mode="multiclass", ignore_index=IGNORE, smooth=smooth / 2)
    torch.testing.assert_close(Dice(3, IGNORE, smooth=smooth)(logits, labels), theirs(logits, labels))


def test_absent_classes_are_left_out_of_the_mean_where_segmentation_models_pytorch_counts_0():
    smp = pytest.importorskip("segmentation_models_pytorch")
    logits, labels = batch(labels_below=2)
    theirs = smp.losses.DiceLoss(mode="multiclass", ignore_index=IGNORE)(logits, labels)
    torch.testing.assert_close(Dice(3, IGNORE, smooth=0.0)(logits, labels), theirs * 3 / 2)


def test_negative_smooth_is_refused():
    with pytest.raises(ConfigError, match="smooth: -1"):
        Dice(3, IGNORE, smooth=-1.0)
