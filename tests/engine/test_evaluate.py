"""What an evaluation says of a binary task, and what it is monitored by."""

import pytest
import torch
from torch import tensor

from segtrain.engine.evaluate import Evaluation, check_monitor, monitor_name
from segtrain.errors import ConfigError
from segtrain.metrics import ConfusionMatrix
from segtrain.types import DataFacts

COLOURS = ((0, 0, 0), (255, 0, 0))
BINARY = DataFacts(("background", "cell"), COLOURS, 255, 1, (0.5,), (0.5,), threshold=0.4)
MULTICLASS = DataFacts(("background", "cell"), COLOURS, 255, 1, (0.5,), (0.5,))


@pytest.fixture
def evaluation() -> Evaluation:
    """Of ten pixels: 3 hits, 1 false alarm, 2 misses, 4 rightly left alone."""
    matrix = ConfusionMatrix(2, 255)
    matrix.update(pred=tensor([1, 1, 1, 1, 0, 0, 0, 0, 0, 0]), labels=tensor([1, 1, 1, 0, 1, 1, 0, 0, 0, 0]))
    return Evaluation(matrix, {"loss": 0.5}, 1, [])


def test_a_binary_task_is_judged_by_its_foreground_and_others_by_miou():
    assert monitor_name(None, BINARY) == "iou/cell"
    assert monitor_name(None, MULTICLASS) == "miou"
    assert monitor_name("loss", BINARY) == "loss"


def test_results_name_the_foregrounds_scores(evaluation):
    foreground = evaluation.results(BINARY)["foreground"]
    assert foreground == {
        "name": "cell",
        "threshold": 0.4,
        "iou": pytest.approx(3 / 6),
        "dice": pytest.approx(6 / 9),
        "precision": pytest.approx(3 / 4),
        "recall": pytest.approx(3 / 5),
    }
    assert "foreground" not in evaluation.results(MULTICLASS)


def test_scalars_name_the_foregrounds_scores(evaluation):
    scalars = evaluation.scalars(BINARY)
    scores = {name: scalars[f"{name}/cell"] for name in ("iou", "dice", "precision", "recall")}
    assert scores == pytest.approx({"iou": 3 / 6, "dice": 6 / 9, "precision": 3 / 4, "recall": 3 / 5})
    assert set(scalars) - set(evaluation.scalars(MULTICLASS)) == {"dice/cell", "precision/cell", "recall/cell"}


def test_they_are_those_of_torchmetrics(evaluation):
    functional = pytest.importorskip("torchmetrics.functional.classification")
    z = torch.randn(2, 20, 21, generator=torch.Generator().manual_seed(0))
    labels = torch.randint(0, 2, z.shape, generator=torch.Generator().manual_seed(1))
    labels[:, :3] = 255
    matrix = ConfusionMatrix(2, 255)
    matrix.update((z.sigmoid() >= 0.4).long(), labels)
    ours = Evaluation(matrix, {}, 2, []).results(BINARY)["foreground"]
    theirs = {
        "iou": functional.binary_jaccard_index,
        "dice": functional.binary_f1_score,
        "precision": functional.binary_precision,
        "recall": functional.binary_recall,
    }
    for name, function in theirs.items():
        expected = function(z.sigmoid(), labels, threshold=0.4, ignore_index=255)
        assert ours[name] == pytest.approx(float(expected), abs=1e-6), name


def test_table_and_headline_say_the_foreground(evaluation):
    assert evaluation.table(BINARY).splitlines()[-1] == (
        "foreground cell at threshold 0.4: iou 0.5000, dice 0.6667, precision 0.7500, recall 0.6000"
    )
    assert evaluation.table(MULTICLASS) == evaluation.matrix.table(MULTICLASS.class_names)
    assert evaluation.headline(BINARY) == "IoU of cell 0.5000"
    assert evaluation.headline(MULTICLASS) == f"mIoU {evaluation.matrix.miou():.4f}"


def test_scores_of_a_foreground_that_is_nowhere_do_not_exist():
    nowhere = Evaluation(ConfusionMatrix(2, 255), {}, 0, [])
    assert set(nowhere.results(BINARY)["foreground"].values()) == {"cell", 0.4, None}
    assert nowhere.headline(BINARY) == "IoU of cell -"


def test_what_a_binary_task_has_can_be_monitored():
    check_monitor("recall/cell", [], BINARY)
    with pytest.raises(ConfigError, match=r"trainer.monitor=recall/cell: no such metric"):
        check_monitor("recall/cell", [], MULTICLASS)
