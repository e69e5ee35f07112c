"""`segtrain train`: what a run leaves behind, and that it repeats."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from segtrain.engine import checkpoint
from tests.system.conftest import TINY

RunCli = Callable[..., tuple[int, str, str]]
Train = Callable[..., Path]


def lines(run: Path, kind: str) -> list[dict]:
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [record for record in records if record["kind"] == kind]


def losses(run: Path) -> list[float]:
    return [record["loss"] for record in lines(run, "train")]


def weights(run: Path) -> dict[str, torch.Tensor]:
    return checkpoint.load(run / "checkpoints" / "last.pt")["model"]


def assert_equal_weights(one: Path, other: Path) -> None:
    first, second = weights(one), weights(other)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_run_leaves_everything_its_reader_needs(finished_run: Path) -> None:
    names = {path.name for path in finished_run.iterdir()}
    assert names == {
        *("config.yaml", "environment.json", "train.log", "metrics.jsonl", "results.json"),
        *("checkpoints", "tensorboard", "pictures"),
    }
    assert {path.name for path in (finished_run / "checkpoints").iterdir()} == {"last.pt", "step_0000003.pt", "best.pt"}
    assert OmegaConf.load(finished_run / "config.yaml").trainer.max_steps == 6
    assert "train" in json.loads((finished_run / "environment.json").read_text())["command"]
    assert [record["step"] for record in lines(finished_run, "train")] == [1, 2, 3, 4, 5, 6]
    assert [record["step"] for record in lines(finished_run, "val")] == [3, 6]


def test_every_line_of_the_log_tells_the_trends_of_numbers_and_memory(finished_run: Path) -> None:
    for record in lines(finished_run, "train"):
        assert {"loss", "gradient_norm", "images_per_second", "data_share"} <= set(record)
        assert {name for name in record if name.startswith("lr/")} >= {"lr/backbone", "lr/decoder"}
        assert record["gradient_norm"] > 0
        if sys.platform.startswith("linux"):
            assert record["memory/resident"] > 50


def test_results_hold_the_keys_that_stay(finished_run: Path) -> None:
    results = json.loads((finished_run / "results.json").read_text())
    assert {"miou", "pixel_accuracy", "mean_class_accuracy", "mean_dice", "per_class", "confusion"} <= set(results)
    assert (results["step"], results["images"]) == (6, 5)
    assert set(results["per_class"]["disc"]) == {"iou", "accuracy", "precision", "dice", "pixels"}
    assert np.array(results["confusion"]).shape == (7, 7)


def test_tensorboard_holds_scalars_per_class_iou_and_panels(finished_run: Path) -> None:
    events = EventAccumulator(str(finished_run / "tensorboard")).Reload()
    assert {"train/loss", "train/lr/decoder", "val/miou", "val/iou/disc", "val/loss"} <= set(events.Tags()["scalars"])
    assert events.Tags()["images"] == ["val/examples"]
    picture = Image.open(finished_run / "pictures" / "step_0000006.png")
    assert picture.width > 500


def test_best_is_the_best_evaluation_and_last_the_last(finished_run: Path) -> None:
    by_step = {record["step"]: record["miou"] for record in lines(finished_run, "val")}
    best = checkpoint.load(finished_run / "checkpoints" / "best.pt")["state"]
    last = checkpoint.load(finished_run / "checkpoints" / "last.pt")["state"]
    assert (best["best_value"], best["step"]) == (max(by_step.values()), max(by_step, key=by_step.__getitem__))
    assert last["step"] == 6


@pytest.fixture(scope="module")
def twenty_steps(train: Train) -> Path:
    return train("trainer.max_steps=20")


@pytest.mark.parametrize("change", [[], ["data.workers=2"]], ids=["again", "two_workers"])
def test_the_same_run_gives_the_same_losses_and_weights(twenty_steps: Path, train: Train, change: list[str]) -> None:
    other = train("trainer.max_steps=20", *change)
    assert len(losses(other)) == 20
    assert losses(other) == losses(twenty_steps)
    assert_equal_weights(other, twenty_steps)


def test_another_seed_gives_another_run(finished_run: Path, train: Train) -> None:
    assert losses(train("seed=1")) != losses(finished_run)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_a_resumed_run_ends_in_the_same_bits(train: Train, run_cli: RunCli, optimizer: str) -> None:
    recipe = (f"optimizer={optimizer}", "schedule=poly", "trainer.accumulate=2", "schedule.warmup_steps=2")
    whole = train(*recipe)
    # the schedule must know the whole length: the shorter run is one that was stopped, not one that was planned
    part = train(*recipe, "trainer.evaluate_every=3", "trainer.save_every=4")
    early = checkpoint.load(part / "checkpoints" / "best.pt")
    stopped = early["state"]["step"]
    assert stopped in (3, 6)
    if stopped == 3:
        checkpoint.save({k: v for k, v in early.items() if k != "schema"}, part / "checkpoints" / "last.pt")
    code, out, err = run_cli("train", f"resume={part}")
    assert code == 0, out + err
    assert_equal_weights(whole, part)
    assert losses(part) == losses(whole)


def test_overrides_of_a_resumed_run_take_effect_and_stay(train: Train, run_cli: RunCli) -> None:
    run = train()
    code, _, err = run_cli("train", f"resume={run}", "trainer.max_steps=8", "optimizer.lr=0.5", "schedule=constant")
    assert code == 0, err
    assert lines(run, "train")[-1]["lr/decoder"] == 0.5
    config = OmegaConf.load(run / "config.yaml")
    assert (config.trainer.max_steps, config.optimizer.lr) == (8, 0.5)
    code, _, err = run_cli("train", f"resume={run}", "trainer.max_steps=9")
    assert code == 0, err
    assert lines(run, "train")[-1]["lr/decoder"] == 0.5
    resumed = json.loads((run / "environment.json").read_text())["resumed"]
    assert [entry["command"][-1] for entry in resumed] == ["schedule=constant", "trainer.max_steps=9"]


def test_another_monitor_begins_with_no_best(train: Train, run_cli: RunCli) -> None:
    run = train()
    code, _, err = run_cli(
        *("train", f"resume={run}", "trainer.max_steps=9"), *("trainer.monitor=loss", "trainer.monitor_mode=min")
    )
    assert code == 0, err
    state = checkpoint.load(run / "checkpoints" / "best.pt")["state"]
    assert state["best_value"] == pytest.approx(lines(run, "val")[-1]["loss"])


def test_a_resume_with_other_threads_says_it_is_not_bitwise(train: Train, run_cli: RunCli) -> None:
    run = train()
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        code, _, err = run_cli("train", f"resume={run}", "trainer.max_steps=7")
    finally:
        torch.set_num_threads(threads)
    assert code == 0, err
    assert f"not to the same bits as without the interruption: threads {threads} -> {threads + 1}" in err


def interrupted_process(directory: Path, number: int, *overrides: str) -> subprocess.CompletedProcess[str]:
    """A training that gets a signal once it is under way."""
    command = [sys.executable, "-m", "segtrain", "train", *TINY, f"run_dir={directory}", *overrides]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    metrics = directory / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while not (metrics.is_file() and metrics.stat().st_size) and time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    os.kill(process.pid, number)
    out, err = process.communicate(timeout=120)
    return subprocess.CompletedProcess(command, process.returncode, out, err)


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGUSR1, 143)],
    ids=["INT", "TERM", "USR1"],
)
def test_a_signal_saves_says_how_to_go_on_and_the_rest_is_the_same(
    number: int, code: int, tmp_path: Path, train: Train, run_cli: RunCli
) -> None:
    length = ("trainer.max_steps=60", "trainer.evaluate_every=30")
    stopped = interrupted_process(tmp_path / "run", number, *length, "data.workers=1")
    assert stopped.returncode == code, stopped.stderr
    assert f"segtrain train resume={tmp_path / 'run'}" in stopped.stderr
    assert "Traceback" not in stopped.stderr
    step = checkpoint.load(tmp_path / "run" / "checkpoints" / "last.pt")["state"]["step"]
    assert 0 < step < 60
    code, _, err = run_cli("train", f"resume={tmp_path / 'run'}", "data.workers=0")
    assert code == 0, err
    whole = train(*length)
    assert_equal_weights(whole, tmp_path / "run")
    assert losses(tmp_path / "run") == losses(whole)


def test_epochs_are_turned_into_steps(train: Train) -> None:
    run = train("trainer.max_steps=null", "trainer.max_epochs=2", "trainer.evaluate_every=null")
    assert lines(run, "train")[-1]["step"] == 12  # 24 images in batches of 4, twice
    assert [record["step"] for record in lines(run, "val")] == [12]


def test_bf16_trains_on_the_cpu_close_to_fp32(finished_run: Path, train: Train) -> None:
    half = losses(train("trainer.precision=bf16"))
    assert half != losses(finished_run)
    assert half == pytest.approx(losses(finished_run), rel=0.1)


def test_every_term_of_a_sum_is_logged_and_class_weights_are_computed_and_printed(train: Train) -> None:
    run = train(
        "loss=cross_entropy_dice",
        "loss.terms.cross_entropy.loss.class_weights=median_frequency",
        "loss.terms.cross_entropy.loss.label_smoothing=0.1",
    )
    record = lines(run, "train")[0]
    assert record["loss"] == pytest.approx(record["loss/cross_entropy"] + record["loss/dice"], rel=1e-5)
    text = (run / "train.log").read_text()
    assert re.search(r"class weights \(median_frequency\): background 0\.\d+", text)


def test_a_smaller_rate_for_the_backbone_is_logged_and_kept(train: Train) -> None:
    record = lines(train("optimizer.backbone_lr_multiplier=0.1", "optimizer.lr=0.01"), "train")[0]
    assert record["lr/backbone"] == pytest.approx(0.1 * record["lr/decoder"])


def test_a_sweep_makes_one_run_for_each_value(run_cli: RunCli, tmp_path: Path) -> None:
    code, _, err = run_cli("train", "-m", *TINY, "trainer.max_steps=1", "seed=0,1", cwd=tmp_path)
    assert code == 0, err
    runs = list((tmp_path / "outputs" / "shapes" / "unet").iterdir())
    assert sorted(OmegaConf.load(run / "config.yaml").seed for run in runs) == [0, 1]


def test_a_model_of_the_users_own_trains_and_is_evaluated_when_trusted(run_cli: RunCli, tmp_path: Path) -> None:
    (tmp_path / "my_models.py").write_text(
        "from torch import nn\n"
        "from segtrain.types import ModelOutput\n"
        "class Pixelwise(nn.Module):\n"
        '    """A 1x1 convolution."""\n'
        "    def __init__(self, num_classes: int, in_channels: int) -> None:\n"
        "        super().__init__()\n"
        "        self.conv = nn.Conv2d(in_channels, num_classes, 1)\n"
        "    def forward(self, images):\n"
        "        return ModelOutput(self.conv(images), {})\n"
    )
    (tmp_path / "my_configs" / "model").mkdir(parents=True)
    (tmp_path / "my_configs" / "model" / "pixelwise.yaml").write_text(
        "# One convolution.\n_target_: my_models.Pixelwise\n"
    )
    shapes = [word for word in TINY if not word.startswith("model")]
    mine = ("--config-dir", "my_configs", "model=pixelwise", "run_dir=run")
    code, _, err = run_cli("train", *shapes, *mine, cwd=tmp_path)
    assert code == 0, err
    code, _, err = run_cli("evaluate", "checkpoint=run/checkpoints/best.pt", cwd=tmp_path)
    assert code == 2
    assert "trust=[my_models]" in err
    code, out, err = run_cli("evaluate", "checkpoint=run/checkpoints/best.pt", "trust=[my_models]", cwd=tmp_path)
    assert code == 0, err
    assert "mean" in out
