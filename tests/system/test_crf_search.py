"""`segtrain crf-search`: parameters that can be used as printed, and what they gain, truthfully."""

import json
import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from segtrain.engine import checkpoint
from segtrain.engine.crf_grid import combinations, refined
from segtrain.engine.crf_search import Comparison, KeptScores, score, search, table
from segtrain.inference import WholeImage
from segtrain.inference.crf import DenseCRF
from segtrain.metrics import ConfusionMatrix
from segtrain.types import DataFacts

RunCli = Callable[..., tuple[int, str, str]]
SMALL = ("bilateral_weight=[2,6]", "bilateral_sigma_xy=[20]", "bilateral_sigma_rgb=[10,40]", "iterations=2")


def test_what_is_found_evaluates_to_the_scores_reported(finished_run: Path, run_cli: RunCli, tmp_path: Path) -> None:
    last = f"checkpoint={finished_run}/checkpoints/last.pt"
    code, out, err = run_cli("crf-search", last, f"output={tmp_path}/search", "images=5", "rounds=1", *SMALL)
    assert code == 0, err
    found = json.loads((tmp_path / "search" / "crf_search.json").read_text())
    assert [path.name for path in (tmp_path / "search").iterdir()] == ["crf_search.json"]
    assert found["searched"]["images"] == 5
    assert "held_out" not in found
    assert "no image was held out" in err
    assert found["searched"]["before"]["miou"] == json.loads((finished_run / "results.json").read_text())["miou"]
    scores = [trial["score"] for trial in found["trials"]]
    assert len(scores) == 4
    assert scores == sorted(scores, reverse=True)
    assert scores[0] == found["searched"]["after"]["miou"]
    line = next(line for line in out.splitlines() if line.startswith("found: "))
    assert line == f"found: {found['overrides']}"
    code, _, err = run_cli("evaluate", last, f"output={tmp_path}/crf", *shlex.split(found["overrides"]))
    assert code == 0, err
    results = json.loads((tmp_path / "crf" / "results.json").read_text())
    # The search keeps scores in float16.
    assert results["miou"] == pytest.approx(found["searched"]["after"]["miou"], abs=1e-3)
    lowered = found["searched"]["after"]["miou"] < found["searched"]["before"]["miou"]
    assert ("better without a CRF" in err) == lowered


def test_images_not_searched_on_are_scored_apart(finished_run: Path, run_cli: RunCli, tmp_path: Path) -> None:
    last = f"checkpoint={finished_run}/checkpoints/last.pt"
    code, out, err = run_cli("crf-search", last, f"output={tmp_path}", "images=2", "rounds=2", *SMALL)
    assert code == 0, err
    found = json.loads((tmp_path / "crf_search.json").read_text())
    assert (found["searched"]["images"], found["held_out"]["images"]) == (2, 3)
    whole = torch.tensor(json.loads((finished_run / "results.json").read_text())["confusion"])
    parts = [torch.tensor(found[name]["before"]["confusion"]) for name in ("searched", "held_out")]
    assert torch.equal(sum(parts), whole)
    assert len(found["trials"]) == 4 + 8
    assert "held-out" in out


def test_what_is_found_after_another_strategy_than_the_stored_one_names_that_one(
    finished_run: Path, run_cli: RunCli, tmp_path: Path
) -> None:
    contents = checkpoint.load(finished_run / "checkpoints" / "last.pt")
    del contents["schema"]
    contents["choices"] |= {"inference": "multiscale", "inference/base": "slide"}  # as a training with both writes it
    checkpoint.save(contents, tmp_path / "last.pt")
    few = ("images=1", "rounds=1", "iterations=1", "bilateral_weight=[2]", "data.num_val=2", *SMALL[1:2])
    last, few = f"checkpoint={tmp_path}/last.pt", (*few, "bilateral_sigma_rgb=[10]", "inference=multiscale")
    code, _, err = run_cli("crf-search", last, f"output={tmp_path}/search", *few, "inference.scales=[1]")
    assert code == 0, err
    found = json.loads((tmp_path / "search" / "crf_search.json").read_text())["overrides"]
    assert found.startswith("inference=crf inference/base=multiscale inference.base.scales=[1] ")
    assert " inference/base/base=whole inference.base.base.scale=1.0 " in found
    code, _, err = run_cli("evaluate", last, f"output={tmp_path}/crf", "data.num_val=1", *shlex.split(found))
    assert code == 0, err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("images=9", "images=9: the validation set holds 5"),
        ("images=0", "images=0 must be at least 1"),
        ("bilateral_weight=[]", "bilateral_weight=[]: positive numbers to try are needed"),
        ("bilateral_sigma_xy=[0]", "bilateral_sigma_xy=[0.0]: positive numbers"),
        ("inference=crf", "the CRF comes after the strategy named here"),
        ("bilateral_wait=[1]", "bilateral_wait"),
    ],
)
def test_a_mistake_is_one_line(finished_run: Path, run_cli: RunCli, tmp_path: Path, words: str, message: str) -> None:
    code, _, err = run_cli("crf-search", f"checkpoint={finished_run}/checkpoints/last.pt", f"output={tmp_path}", words)
    assert code == 2
    assert message in err
    assert list(tmp_path.iterdir()) == []


FACTS = DataFacts.of(num_classes=2, in_channels=3)


def kept_halves(folder: Path, facts: DataFacts) -> KeptScores:
    """One image, half dark and half bright, whose score map puts the border at the wrong column."""
    image = torch.full((3, 16, 24), 60, dtype=torch.uint8)
    image[..., 10:] = 190
    labels = (image[0] > 100).to(torch.uint8)
    scores = torch.zeros(2, 16, 24)
    scores[1] = torch.linspace(-2, 2, 24) - 0.2
    kept = KeptScores(folder, facts)
    kept.add(image, scores.log_softmax(dim=0).half(), labels, ())
    return kept


def test_the_best_trial_comes_first_and_is_refined(tmp_path: Path) -> None:
    tried = []

    def make(parameters: dict[str, float]) -> DenseCRF:
        tried.append(parameters)
        return DenseCRF(WholeImage(1.0), 5, 1.0, 2.0, **parameters, normalization="symmetric")

    # Two colours that differ by 130 are told apart by a small sigma, and not by a large one.
    axes = {"bilateral_weight": (0.1, 6.0), "bilateral_sigma_xy": (30.0,), "bilateral_sigma_rgb": (10.0, 1000.0)}
    trials = search(kept_halves(tmp_path, FACTS), make, axes, 2, FACTS, torch.device("cpu"))
    assert trials[0].parameters["bilateral_sigma_rgb"] < 100
    assert score(trials[0].matrix, FACTS) == 1.0
    assert score(trials[-1].matrix, FACTS) < 0.8
    assert len(tried) == len(trials) == len({tuple(each.values()) for each in tried})
    assert tried[:4] == combinations(axes)
    assert all(each["bilateral_sigma_rgb"] < 150 for each in tried[4:])


def test_finer_axes_halve_the_steps_around_the_best_and_reach_beyond_an_end() -> None:
    axes = {"inner": (25.0, 50.0, 100.0), "end": (1.0, 4.0), "fixed": (3.0,)}
    finer = refined(axes, {"inner": 50.0, "end": 4.0, "fixed": 3.0})
    assert finer["inner"] == (35.4, 50.0, 70.7)
    assert finer["end"] == (2.0, 4.0, 8.0)
    assert finer["fixed"] == (3.0,)
    assert len(combinations(finer)) == 9


def matrix_of(*rows: list[int]) -> ConfusionMatrix:
    matrix = ConfusionMatrix(2, 255)
    matrix.matrix = torch.tensor(rows)
    return matrix


def test_a_crf_that_lowers_the_score_is_said_to() -> None:
    # IoU of both classes 1/2; then 6/10 and 0.
    better, worse = matrix_of([2, 1], [1, 2]), matrix_of([6, 0], [4, 0])
    said = "the best CRF found lowers the mIoU of the held-out images from 0.5000 to 0.3000: better without a CRF"
    assert Comparison(better, worse, 1).loss("held-out", FACTS) == said
    assert Comparison(worse, better, 1).loss("held-out", FACTS) is None
    assert Comparison(better, better, 1).loss("held-out", FACTS) is None


def test_a_binary_task_is_judged_by_its_foreground() -> None:
    # The foreground's IoU rises from 1/3 to 1/2 while the mean falls.
    before, after = matrix_of([97, 2], [0, 1]), matrix_of([90, 5], [0, 5])
    assert score(before, replace(FACTS, threshold=0.5)) == pytest.approx(1 / 3)
    assert Comparison(before, after, 1).loss("x", replace(FACTS, threshold=0.5)) is None
    assert "IoU of class 1" in str(Comparison(after, before, 1).loss("x", replace(FACTS, threshold=0.5)))


def test_the_table_shows_classes_with_what_changed_and_absent_ones() -> None:
    before, after = matrix_of([4, 0], [0, 0]), matrix_of([3, 1], [0, 0])
    lines = table({"searched": Comparison(before, after, 1)}, FACTS).splitlines()
    assert lines[1].split() == ["class", "before", "after", "change"]
    assert lines[3].split() == ["class", "0", "1.0000", "0.7500", "-0.2500"]
    assert lines[4].split() == ["class", "1", "absent", "0.0000", "absent"]
    assert lines[6].split() == ["mean", "1.0000", "0.3750", "-0.6250"]
