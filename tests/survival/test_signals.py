"""A training told to end, at any time, ends: saved, with its own exit code, and goes on to the same bits."""

import json
import random
import shutil
import signal
import time
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from segtrain.engine import checkpoint
from tests.survival.child import EVALUATING, SAVING, TRAINING
from tests.survival.fingerprint import checkpoints
from tests.survival.lab import Lab, assert_readable, assert_same


def logged_steps(run_dir: Path, kind: str) -> list[int]:
    records = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [record["step"] for record in records if record["kind"] == kind]


def steps_in_tensorboard(run_dir: Path, scalar: str) -> list[int]:
    accumulator = EventAccumulator(str(run_dir / "tensorboard"))
    accumulator.Reload()
    found = scalar in accumulator.Tags()["scalars"]
    return [event.step for event in accumulator.Scalars(scalar)] if found else []


def stopped(lab: Lab, run_dir: Path, number: int, rng: random.Random) -> bytes:
    """Goes on with the run and tells it to end in some phase; returns which, empty if the run was done before."""
    process = lab.go_on(run_dir, phases=True)
    aim, times = rng.choice([(TRAINING, 1), (SAVING, rng.randint(1, 3)), (EVALUATING, 1), (EVALUATING, 1)])
    if process.wait_for(aim, times):
        time.sleep(rng.uniform(0, 0.02))
    process.send(number)
    code = process.wait()
    assert_readable(run_dir)
    if not checkpoints(run_dir):  # it came before the training had done a step
        assert code in (130, 143, -number), process.said()
        return b""
    state = checkpoint.load(run_dir / "checkpoints" / "last.pt")["state"]
    if code == 0:
        assert (state["step"], state["evaluated_step"]) == (8, 8)
        return b""
    if code == -number:  # it came after the training, which was all that could be lost
        assert process.phases.endswith(b"t"), process.said()
        return b""
    assert code == (130 if number == signal.SIGINT else 143), process.said()
    assert "Traceback" not in process.said()
    assert steps_in_tensorboard(run_dir, "train/loss") == logged_steps(run_dir, "train")
    return aim


def stop_at_random(lab: Lab, reference: Path, seed: int, stops: int) -> list[bytes]:
    rng, hit = random.Random(seed), []
    while len(hit) < stops:
        run_dir = lab.new_folder()
        for _ in range(4):
            number = rng.choice([signal.SIGTERM, signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
            hit += [phase] if (phase := stopped(lab, run_dir, number, rng)) else []
        lab.finish(run_dir)
        assert_same(run_dir, reference)
        shutil.rmtree(run_dir.parent)
    return hit


def test_a_run_told_to_end_at_random_becomes_the_undisturbed_run(lab: Lab, reference: Path) -> None:
    assert len(stop_at_random(lab, reference, seed=0, stops=4)) >= 4


@pytest.mark.slow
def test_twenty_random_signals_also_while_it_evaluates(lab: Lab, reference: Path) -> None:
    hit = stop_at_random(lab, reference, seed=1, stops=20)
    assert hit.count(EVALUATING) >= 3
    assert hit.count(SAVING) >= 2
