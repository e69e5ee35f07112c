"""`trainer.dry_run=true`: what a run would take, with nothing written."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from segtrain.engine import checkpoint
from tests.system.conftest import TINY

RunCli = Callable[..., tuple[int, str, str]]


def rows(run_cli: RunCli, folder: Path, *words: str) -> dict[str, str]:
    code, out, err = run_cli("train", *TINY, "trainer.dry_run=true", *words, cwd=folder)
    assert code == 0, err
    assert list(folder.iterdir()) == []
    return {name.strip(): text for name, text in (re.split(r"  +", line, maxsplit=1) for line in out.splitlines())}


def test_it_says_shapes_parameters_memory_and_time_and_writes_nothing(run_cli: RunCli, tmp_path: Path) -> None:
    found = rows(run_cli, tmp_path, "trainer.max_steps=4000", "trainer.evaluate_every=1500", "model/aux=fcn")
    assert found["images"] == "4 x 3 x 64 x 64"
    assert found["labels"] == "4 x 64 x 64"
    assert found["logits"] == found["aux stage4"] == "4 x 7 x 64 x 64"
    assert ": 4000 steps, 3 evaluations" in found["whole run"]  # at 1500, 3000 and 4000
    assert re.fullmatch(r"\d+\.\d{3} s, \d+% of it waiting for data", found["step"])
    assert re.fullmatch(r"[\d,]+ MiB resident, [\d,]+ MiB of it since before the first step", found["peak memory"])


def test_frozen_parameters_and_averages_count(run_cli: RunCli, tmp_path: Path) -> None:
    plain = rows(run_cli, tmp_path)
    frozen = rows(run_cli, tmp_path, "+trainer.freeze.backbone=3", "trainer.ema_decay=0.9")
    learning, none = (int(n) for n in re.findall(r"[\d,]+(?= )", plain["parameters"].replace(",", "")))
    fewer, held = (int(n) for n in re.findall(r"[\d,]+(?= )", frozen["parameters"].replace(",", "")))
    assert none == 0
    assert 0 < fewer < learning == fewer + held


def test_the_size_of_a_checkpoint_is_that_of_its_tensors(
    run_cli: RunCli, tmp_path: Path, train: Callable[..., Path]
) -> None:
    # Wide enough that names and records do not count.
    wide = ("model.decoder_channels=[64,64,32,16,16]", "model.backbone.channels=[16,16,64,128,128]")
    told = rows(run_cli, tmp_path, *wide, "trainer.max_steps=1")["checkpoint"]
    last = train(*wide, "trainer.max_steps=1") / "checkpoints" / "last.pt"
    assert checkpoint.load(last)["state"]["step"] == 1
    number = float(re.findall(r"[\d.]+", told)[0])
    assert number == pytest.approx(last.stat().st_size / 2**20, rel=0.1)


def test_a_run_that_could_not_begin_is_refused_all_the_same(run_cli: RunCli, tmp_path: Path) -> None:
    code, out, err = run_cli("train", *TINY, "trainer.dry_run=true", "loss=dicee", cwd=tmp_path)
    assert (code, out) == (2, "")
    assert "loss=dicee: no such option" in err
