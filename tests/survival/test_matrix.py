"""Where it is saved, how many workers read before and after, in which numbers, with and without averaged weights."""

import shutil
import signal
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from tests.survival.lab import Lab, assert_same

# What is computed in, and what the training's process is told for it; fp16 on the CPU is fp32 with a scaled loss.
NUMBERS: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "fp32": ((), {}),
    "bf16": (("trainer.precision=bf16",), {}),
    "scaled": ((), {"scaler": True}),
}
AVERAGES = {"averaged": (), "raw": ("trainer.ema_decay=null",)}
# Each count once before and once after the interruption.
WORKERS = [(0, 1), (1, 2), (2, 4), (4, 0)]
STEPS = [1, 3, 4, 6]
THINNED = [(3, (0, 2), "scaled", "averaged"), (4, (2, 0), "bf16", "raw"), (6, (1, 4), "fp32", "averaged")]

_references: dict[tuple[str, str], Path] = {}


def undisturbed(lab: Lab, numbers: str, averages: str) -> Path:
    """The run without workers that all of a kind must become; made once."""
    if (numbers, averages) not in _references:
        overrides, plan = NUMBERS[numbers]
        _references[numbers, averages] = lab.uninterrupted(*overrides, *AVERAGES[averages], **plan)
    return _references[numbers, averages]


def becomes_the_undisturbed_run(lab: Lab, step: int, workers: tuple[int, int], numbers: str, averages: str) -> None:
    reference = undisturbed(lab, numbers, averages)
    overrides, plan = NUMBERS[numbers]
    run_dir = lab.new_folder()
    before, after = (f"data.workers={count}" for count in workers)
    crash = {"step": step, "event": "folder:after"}
    process = lab.new(run_dir, *overrides, *AVERAGES[averages], before, **plan, crash=crash)
    assert process.wait() == -signal.SIGKILL, process.said()
    lab.finish(run_dir, after, **plan)
    assert_same(run_dir, reference)
    shutil.rmtree(run_dir.parent)


@pytest.mark.parametrize(("step", "workers", "numbers", "averages"), THINNED)
def test_a_resumed_run_is_the_same_for_any_number_of_workers(
    lab: Lab, step: int, workers: tuple[int, int], numbers: str, averages: str
) -> None:
    becomes_the_undisturbed_run(lab, step, workers, numbers, averages)


@pytest.mark.slow
@pytest.mark.parametrize(("step", "workers", "numbers", "averages"), [*product(STEPS, WORKERS, NUMBERS, AVERAGES)])
def test_every_resumed_run_is_the_same(
    lab: Lab, step: int, workers: tuple[int, int], numbers: str, averages: str
) -> None:
    becomes_the_undisturbed_run(lab, step, workers, numbers, averages)


@pytest.mark.gpu
@pytest.mark.parametrize("averages", AVERAGES)
@pytest.mark.parametrize("step", STEPS)
def test_a_resumed_run_in_fp16_is_the_same_on_cuda(lab: Lab, step: int, averages: str) -> None:
    cuda = ("trainer.device=cuda", "trainer.precision=fp16", *AVERAGES[averages])
    reference = lab.uninterrupted(*cuda, deterministic=True)
    run_dir = lab.new_folder()
    process = lab.new(run_dir, *cuda, deterministic=True, crash={"step": step, "event": "folder:after"})
    assert process.wait() == -signal.SIGKILL, process.said()
    lab.finish(run_dir, "data.workers=2", deterministic=True)
    assert_same(run_dir, reference)
