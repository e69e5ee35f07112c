"""The confusion matrix, and every score that follows from it."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from segtrain.errors import DataError


class ConfusionMatrix:
    """Counts of pixels by true class (rows) and predicted class (columns).

    Convention: a pixel whose truth is `ignore_index` (void) is left out of everything, whatever is predicted there.
    Counts are int64, so they stay exact where float32 would stop at 2^24. With TP_c the diagonal, truth_c the row sums
    and predicted_c the column sums:

        IoU_c      = TP_c / (truth_c + predicted_c - TP_c)      accuracy_c     = TP_c / truth_c   (recall)
        Dice_c     = 2 TP_c / (truth_c + predicted_c)           precision_c    = TP_c / predicted_c
        pixel accuracy = sum TP / sum truth

    A score whose denominator is 0 (the class is absent) is nan, is left out of its mean over classes, and is shown as
    absent, never as 0. A mean over no class at all is nan.

    Attributes:
        matrix: [C, C] int64 on the CPU; plain addition merges matrices, between processes too.
    """

    def __init__(self, num_classes: int, ignore_index: int) -> None:
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        self.matrix = torch.zeros(num_classes, num_classes, dtype=torch.int64)

    def update(self, pred: Tensor, labels: Tensor) -> None:
        """Count a batch.

        Args:
            pred: predicted classes in [0, C), of any shape, integer dtype and device.
            labels: true classes in [0, C) or `ignore_index`; same shape and device as `pred`.

        Raises:
            ValueError: shapes differ, or a predicted class is out of range.
            DataError: a label is out of range.
        """
        if pred.shape != labels.shape:
            raise ValueError(f"prediction {list(pred.shape)} and labels {list(labels.shape)} differ in shape")
        if pred.numel() == 0:
            return
        c = self.num_classes
        low, high = pred.aminmax()
        if low < 0 or high >= c:
            raise ValueError(f"predicted classes span [{int(low)}, {int(high)}]; expected [0, {c - 1}]")

        if 0 <= self.ignore_index < 256:
            # The ignored label gets a row of its own, dropped after counting: ten times as fast as selecting.
            num_rows = max(c, self.ignore_index + 1)
        else:
            valid = labels != self.ignore_index
            pred, labels, num_rows = pred[valid], labels[valid], c
        # Every label below num_rows has its row; any other makes the index negative or lengthens the counts.
        index = (labels.int() * c).add_(pred.int()).flatten()
        if index.numel() and index.min() < 0:
            self._raise_label_out_of_range(labels)
        counts = torch.bincount(index, minlength=num_rows * c)
        if counts.numel() > num_rows * c:
            self._raise_label_out_of_range(labels)
        table = counts.view(num_rows, c).cpu()
        if 0 <= self.ignore_index < 256:
            table[self.ignore_index] = 0
        if table[c:].any():
            self._raise_label_out_of_range(labels)
        self.matrix += table[:c]

    def __iadd__(self, other: "ConfusionMatrix") -> "ConfusionMatrix":
        """Add the counts of another matrix of the same classes."""
        self.matrix += other.matrix
        return self

    def iou(self) -> Tensor:
        """[C] float64 intersection over union; nan for a class in neither truth nor prediction."""
        return self._hits / (self._truth + self._predicted - self._hits)

    def dice(self) -> Tensor:
        """[C] float64 Dice coefficient (F1); nan for a class in neither truth nor prediction."""
        return 2 * self._hits / (self._truth + self._predicted)

    def class_accuracy(self) -> Tensor:
        """[C] float64 share of each class's true pixels that were found (recall); nan for a class not in the truth."""
        return self._hits / self._truth

    def precision(self) -> Tensor:
        """[C] float64 share of the pixels predicted as each class that are of it; nan for a class never predicted."""
        return self._hits / self._predicted

    def pixel_accuracy(self) -> float:
        """Share of all valid pixels that are right; nan if there is none."""
        return float(self._hits.sum() / self._truth.sum())

    def miou(self) -> float:
        """Mean of `iou` over the classes in truth or prediction."""
        return float(self.iou().nanmean())

    def mean_dice(self) -> float:
        """Mean of `dice` over the classes in truth or prediction."""
        return float(self.dice().nanmean())

    def mean_class_accuracy(self) -> float:
        """Mean of `class_accuracy` over the classes in the truth."""
        return float(self.class_accuracy().nanmean())

    def summary(self, class_names: Sequence[str]) -> dict[str, Any]:
        """Every score, as what goes into results.json: plain values, with None for a score that does not exist.

        `pixels` are those of the truth.
        """
        per_class = {
            name: {"iou": iou, "accuracy": accuracy, "precision": precision, "dice": dice, "pixels": pixels}
            for name, iou, accuracy, precision, dice, pixels in zip(
                class_names,
                _finite(self.iou()),
                _finite(self.class_accuracy()),
                _finite(self.precision()),
                _finite(self.dice()),
                self.matrix.sum(dim=1).tolist(),
                strict=True,
            )
        }
        means = torch.tensor(
            [self.miou(), self.pixel_accuracy(), self.mean_class_accuracy(), self.mean_dice()], dtype=torch.float64
        )
        return {
            **dict(zip(("miou", "pixel_accuracy", "mean_class_accuracy", "mean_dice"), _finite(means), strict=True)),
            "per_class": per_class,
            "confusion": self.matrix.tolist(),
        }

    def table(self, class_names: Sequence[str]) -> str:
        """The scores per class and their means as aligned plain text, scores in [0, 1]."""
        summary = self.summary(class_names)
        total = max(int(self.matrix.sum()), 1)
        header = ["class", "IoU", "accuracy", "Dice", "truth"]
        body = [
            [name, _cell(row["iou"]), _cell(row["accuracy"]), _cell(row["dice"]), f"{row['pixels'] / total:.2%}"]
            for name, row in summary["per_class"].items()
        ]
        means = [_cell(summary[key]) for key in ("miou", "mean_class_accuracy", "mean_dice")]
        mean_row = ["mean", *means, ""]
        widths = [max(len(row[column]) for row in [header, *body, mean_row]) for column in range(len(header))]

        def line(row: list[str]) -> str:
            cells = [row[0].ljust(widths[0])] + [
                cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)
            ]
            return "  ".join(cells).rstrip()

        rule = "-" * (sum(widths) + 2 * (len(widths) - 1))
        accuracy = f"pixel accuracy {_cell(summary['pixel_accuracy'])}"
        return "\n".join([line(header), rule, *map(line, body), rule, line(mean_row), accuracy])

    @property
    def _hits(self) -> Tensor:
        return self.matrix.diagonal().double()

    @property
    def _truth(self) -> Tensor:
        return self.matrix.sum(dim=1).double()

    @property
    def _predicted(self) -> Tensor:
        return self.matrix.sum(dim=0).double()

    def _raise_label_out_of_range(self, labels: Tensor) -> None:
        wrong = labels[((labels < 0) | (labels >= self.num_classes)) & (labels != self.ignore_index)]
        raise DataError(
            f"label value {int(wrong[0])} among the true labels; expected [0, {self.num_classes - 1}] "
            f"or {self.ignore_index} (ignored); check the data's label map"
        )


def _finite(values: Tensor) -> list[float | None]:
    return [None if math.isnan(value) else value for value in values.tolist()]


def _cell(score: float | None) -> str:
    return "absent" if score is None else f"{score:.4f}"
