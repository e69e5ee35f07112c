"""`segtrain lr_range`: a curve, its picture, and a command that trains with what it suggests."""

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from segtrain.commands import lr_range
from segtrain.engine.rate_range import RangeOptions, RangeResult
from segtrain.engine.step import TrainStep
from tests.system.conftest import TINY

RunCli = Callable[..., tuple[int, str, str]]


def test_the_suggested_rate_is_one_that_trains(run_cli: RunCli, tmp_path: Path) -> None:
    words = ("steps=30", "min_lr=1e-5", "max_lr=10", "output=range", "optimizer.lr=0.5")
    code, out, err = run_cli("lr_range", *TINY, *words, cwd=tmp_path)
    assert code == 0, err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["range"]
    found = json.loads((tmp_path / "range" / "lr_range.json").read_text())
    assert found["rates"][0] == pytest.approx(1e-5)
    assert found["rates"][10] == pytest.approx(1e-5 * (1e6) ** (10 / 29))
    assert len(found["rates"]) == len(found["losses"]) == len(found["smoothed"])
    assert Image.open(tmp_path / "range" / "lr_range.png").size == (960, 600)
    assert found["losses"][0] > min(found["losses"])
    command = shlex.split(out.splitlines()[-1].partition(": ")[2])
    assert command[:2] == ["segtrain", "train"]
    assert f"optimizer.lr={found['suggested']:.1e}" in command
    assert not {"steps=30", "output=range", "optimizer.lr=0.5"} & set(command)
    code, _, err = run_cli(*command[1:], "trainer.max_steps=1", "run_dir=run", cwd=tmp_path)
    assert code == 0, err


def test_every_group_keeps_its_multiple_of_the_rate(
    run_cli: RunCli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates: dict[str, list[float]] = {}

    def look(step: TrainStep, batches: Any, accumulate: int, options: RangeOptions) -> RangeResult:
        for number in (0, 10):
            step.set_rates(number)
            for group in step.parts.optimizer.param_groups:
                rates.setdefault(group["name"].split("_")[0], []).append(group["lr"])
        return RangeResult([1e-4, 1e-3], [1.0, 2.0], [1.0, 2.0], False, None, None)

    monkeypatch.setattr(lr_range, "range_test", look)
    words = ("steps=11", "min_lr=1e-4", "max_lr=1", "optimizer.backbone_lr_multiplier=0.1", "output=x")
    code, out, err = run_cli("lr_range", *TINY, *words, cwd=tmp_path)
    assert code == 0, err
    assert rates["backbone"][0] == pytest.approx(1e-5)
    assert rates["backbone"][-1] == pytest.approx(0.1)
    assert rates["decoder"][0] == pytest.approx(1e-4)
    assert rates["decoder"][-1] == pytest.approx(1.0)
    # And a curve that does not fall has no suggestion.
    assert "the loss never fell" in err
    assert out == ""
    assert json.loads((tmp_path / "x" / "lr_range.json").read_text())["suggested"] is None


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("min_lr=0", "min_lr=0 and max_lr=1.0: need 0 < min_lr < max_lr"),
        ("steps=3", "steps=3 must be at least 10"),
        ("steps=many", "steps='many' is no"),
        ("resume=run", "lr_range begins with initial weights and makes no run: leave resume and run_dir out"),
        ("optimizer.lr=0", "optimizer.lr=0 must be positive"),
        ("max_lrr=1", "no config key 'max_lrr'; did you mean 'max_lr'?"),
        ("modle=unet", "did you mean 'model'?"),
    ],
)
def test_a_mistake_is_one_line(run_cli: RunCli, tmp_path: Path, words: str, message: str) -> None:
    code, _, err = run_cli("lr_range", *TINY, *words.split(), cwd=tmp_path)
    assert code == 2
    assert err.startswith("segtrain: error: ")
    assert message in err
    assert list(tmp_path.iterdir()) == []
