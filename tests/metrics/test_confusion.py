"""The confusion matrix: by hand, against torchmetrics, and at its edges."""

import json
import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch import tensor

from segtrain.errors import DataError
from segtrain.metrics import ConfusionMatrix

NAN = float("nan")


def by_hand():
    """Three classes; class 2 is in neither truth nor prediction."""
    matrix = ConfusionMatrix(num_classes=3, ignore_index=255)
    matrix.update(pred=tensor([[0, 0, 1, 1, 1, 0]]), labels=tensor([[0, 0, 0, 1, 1, 255]]))
    return matrix


def random_batch(num_classes, ignore_index):
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, num_classes, (3, 20, 21), generator=generator)
    pred = torch.where(
        torch.rand(labels.shape, generator=generator) < 0.6,
        labels,
        torch.randint(0, num_classes, labels.shape, generator=generator),
    )
    labels[:, :4] = ignore_index
    return pred, labels


def test_rows_are_truth_and_columns_prediction():
    assert by_hand().matrix.tolist() == [[2, 1, 0], [0, 2, 0], [0, 0, 0]]
    assert by_hand().matrix.dtype == torch.int64


def test_scores_by_hand_with_an_absent_class():
    matrix = by_hand()
    np.testing.assert_allclose(matrix.iou(), [2 / 3, 2 / 3, NAN])
    np.testing.assert_allclose(matrix.dice(), [4 / 5, 4 / 5, NAN])
    np.testing.assert_allclose(matrix.class_accuracy(), [2 / 3, 1, NAN])
    np.testing.assert_allclose(matrix.precision(), [1, 2 / 3, NAN])
    assert matrix.pixel_accuracy() == pytest.approx(4 / 5)
    assert matrix.miou() == pytest.approx(2 / 3)
    assert matrix.mean_dice() == pytest.approx(4 / 5)
    assert matrix.mean_class_accuracy() == pytest.approx((2 / 3 + 1) / 2)


def test_ignored_pixels_change_neither_iou_nor_denominator():
    matrix = ConfusionMatrix(num_classes=2, ignore_index=255)
    matrix.update(pred=tensor([[0, 1, 1]]), labels=tensor([[0, 1, 255]]))
    assert matrix.iou().tolist() == [1.0, 1.0]


def test_class_predicted_but_not_in_the_truth_has_iou_0_and_no_accuracy():
    matrix = ConfusionMatrix(num_classes=2, ignore_index=255)
    matrix.update(pred=tensor([0, 1]), labels=tensor([0, 0]))
    np.testing.assert_allclose(matrix.iou(), [0.5, 0])
    np.testing.assert_allclose(matrix.class_accuracy(), [0.5, NAN])
    assert matrix.miou() == 0.25
    assert matrix.mean_class_accuracy() == 0.5


@pytest.mark.parametrize("labels", [tensor([255, 255]), torch.zeros(0, dtype=torch.int64)])
def test_without_a_valid_pixel_every_mean_is_nan(labels):
    matrix = ConfusionMatrix(num_classes=2, ignore_index=255)
    matrix.update(pred=torch.zeros_like(labels), labels=labels)
    scores = matrix.miou(), matrix.pixel_accuracy(), matrix.mean_class_accuracy(), matrix.mean_dice()
    assert all(math.isnan(score) for score in scores)


# 1: a class that is not evaluated; -1 and 65535: values without a row of their own.
@pytest.mark.parametrize("ignore_index", [255, 5, 1, -1, 65535])
def test_equals_torchmetrics(ignore_index):
    functional = pytest.importorskip("torchmetrics.functional.classification")
    pred, labels = random_batch(5, ignore_index)
    matrix = ConfusionMatrix(num_classes=5, ignore_index=ignore_index)
    matrix.update(pred, labels)
    options = {"num_classes": 5, "ignore_index": ignore_index}
    expected = functional.multiclass_confusion_matrix(pred, labels, **options)
    assert torch.equal(matrix.matrix, expected)
    if ignore_index == 1:  # torchmetrics leaves such a class out of its means; here its false positives count
        return

    def close(ours, theirs):
        torch.testing.assert_close(torch.as_tensor(ours).float(), theirs)

    close(matrix.iou(), functional.multiclass_jaccard_index(pred, labels, average="none", **options))
    close(matrix.miou(), functional.multiclass_jaccard_index(pred, labels, average="macro", **options))
    close(matrix.class_accuracy(), functional.multiclass_accuracy(pred, labels, average="none", **options))
    close(matrix.precision(), functional.multiclass_precision(pred, labels, average="none", **options))
    close(matrix.mean_class_accuracy(), functional.multiclass_accuracy(pred, labels, average="macro", **options))
    close(matrix.pixel_accuracy(), functional.multiclass_accuracy(pred, labels, average="micro", **options))
    close(matrix.dice(), functional.multiclass_f1_score(pred, labels, average="none", **options))
    close(matrix.mean_dice(), functional.multiclass_f1_score(pred, labels, average="macro", **options))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.int64])
def test_any_integer_dtype_counts_the_same(dtype):
    pred, labels = random_batch(5, 255)
    expected, matrix = ConfusionMatrix(5, 255), ConfusionMatrix(5, 255)
    expected.update(pred, labels)
    matrix.update(pred.to(dtype), labels.to(dtype))
    assert torch.equal(matrix.matrix, expected.matrix)


def test_merging_parts_equals_counting_the_whole():
    pred, labels = random_batch(5, 255)
    whole, parts = ConfusionMatrix(5, 255), ConfusionMatrix(5, 255)
    whole.update(pred, labels)
    for one_pred, one_labels in zip(pred, labels, strict=True):
        part = ConfusionMatrix(5, 255)
        part.update(one_pred, one_labels)
        parts += part
    assert torch.equal(parts.matrix, whole.matrix)


def test_counts_beyond_2_to_the_24_are_exact():
    matrix = ConfusionMatrix(num_classes=2, ignore_index=255)
    matrix.matrix += 2**24
    matrix.update(pred=tensor([0]), labels=tensor([1]))
    assert matrix.matrix.tolist() == [[2**24, 2**24], [2**24 + 1, 2**24]]
    assert matrix.class_accuracy()[1] == 2**24 / (2**25 + 1)


@pytest.mark.parametrize("ignore_index", [255, -1])
@pytest.mark.parametrize("label", [3, 7, 254, 300, -2])
def test_label_out_of_range_is_an_error_and_counts_nothing(label, ignore_index):
    matrix = ConfusionMatrix(num_classes=3, ignore_index=ignore_index)
    with pytest.raises(DataError, match=f"label value {label} "):
        matrix.update(pred=tensor([0, 2]), labels=tensor([0, label]))
    assert not matrix.matrix.any()


@pytest.mark.parametrize("pred", [tensor([0, 3]), tensor([-1, 0]), tensor([0, 0, 0])])
def test_prediction_out_of_range_or_shape_is_an_error(pred):
    with pytest.raises(ValueError, match=r"predict"):
        ConfusionMatrix(num_classes=3, ignore_index=255).update(pred, tensor([0, 255]))


def test_summary_is_plain_json_with_null_for_absent_classes():
    summary = by_hand().summary(["road", "sky", "bus"])
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    assert summary["miou"] == pytest.approx(2 / 3)
    assert summary["pixel_accuracy"] == pytest.approx(0.8)
    assert summary["per_class"]["sky"] == {
        "iou": pytest.approx(2 / 3),
        "accuracy": 1.0,
        "precision": pytest.approx(2 / 3),
        "dice": pytest.approx(0.8),
        "pixels": 2,
    }
    assert summary["per_class"]["bus"] == {
        **dict.fromkeys(("iou", "accuracy", "precision", "dice")),
        "pixels": 0,
    }
    assert summary["confusion"] == [[2, 1, 0], [0, 2, 0], [0, 0, 0]]


def test_summary_needs_a_name_for_each_class():
    with pytest.raises(ValueError, match="zip"):
        by_hand().summary(["road", "sky"])


def test_table_is_aligned_and_shows_absent_classes_as_absent():
    assert by_hand().table(["road", "clear sky", "bus"]).splitlines() == [
        "class         IoU  accuracy    Dice   truth",
        "-------------------------------------------",
        "road       0.6667    0.6667  0.8000  60.00%",
        "clear sky  0.6667    1.0000  0.8000  40.00%",
        "bus        absent    absent  absent   0.00%",
        "-------------------------------------------",
        "mean       0.6667    0.8333  0.8000",
        "pixel accuracy 0.8000",
    ]


def test_ade20k_sample_scores_1_over_its_present_classes(shared_data):
    folder = shared_data / "ade20k_sample"
    expected = json.loads((folder / "expected.json").read_text())
    matrix = ConfusionMatrix(num_classes=150, ignore_index=-1)
    for file in sorted((folder / "annotations").glob("*.png")):
        labels = torch.from_numpy(np.array(Image.open(file)).astype(np.int64)) - 1  # 0 is unlabelled
        pred = torch.from_numpy(np.array(Image.open(folder / "predictions" / file.name)).astype(np.int64)) - 1
        matrix.update(pred.clamp(min=0), labels)
    assert (matrix.iou().isfinite().nonzero().flatten() + 1).tolist() == expected["present"]
    assert matrix.miou() == 1.0
    assert matrix.pixel_accuracy() == expected["pixel_acc"]
    # The devkit counts absent classes as 0 and divides by all 150.
    assert matrix.iou().nansum().item() / 150 == pytest.approx(expected["devkit_mean_IoU_over_150"])
