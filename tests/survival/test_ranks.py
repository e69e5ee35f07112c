"""Two processes that train together: told to end, or one of them killed, they go on to the same bits."""

import random
import shutil
import signal
import socket
import time
from pathlib import Path
from typing import Any

import pytest

from segtrain.engine import checkpoint
from tests.survival.child import EVALUATING, SAVING, TRAINING
from tests.survival.disk import POINTS
from tests.survival.fingerprint import checkpoints
from tests.survival.lab import Lab, Process, assert_readable, assert_same

pytestmark = pytest.mark.slow
AT_MOST = 30  # seconds until all have ended when one has died


def go_on_together(lab: Lab, run_dir: Path, **plan: Any) -> list[Process]:
    """Begins or goes on with a run in two processes, as torchrun would start them; `plan` is for rank 0."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = str(probe.getsockname()[1])
    places = [
        {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": port}
        for rank in ("0", "1")
    ]
    begun = bool(checkpoints(run_dir))
    return [
        lab.go_on(run_dir, environment=place, **part)
        if begun
        else lab.new(run_dir, "resume=auto", environment=place, **part)
        for place, part in zip(places, (plan, {}), strict=True)
    ]


def said(processes: list[Process]) -> str:
    return "\n".join(f"rank {rank}:\n{process.said()}" for rank, process in enumerate(processes))


def finish_together(lab: Lab, run_dir: Path) -> None:
    processes = go_on_together(lab, run_dir)
    assert [process.wait() for process in processes] == [0, 0], said(processes)


@pytest.fixture(scope="module")
def reference_of_two(lab: Lab) -> Path:
    """The run of two processes that nothing disturbed."""
    run_dir = lab.new_folder()
    finish_together(lab, run_dir)
    return run_dir


def stopped_together(lab: Lab, run_dir: Path, rng: random.Random) -> bytes:
    """Sends SIGTERM to one of the two or to both, in some phase of rank 0; returns which, empty if it was too late."""
    processes = go_on_together(lab, run_dir, phases=True)
    aim, times = rng.choice([(TRAINING, 1), (SAVING, rng.randint(1, 2)), (EVALUATING, 1), (EVALUATING, 1)])
    if processes[0].wait_for(aim, times):
        time.sleep(rng.uniform(0, 0.02))
    reached = rng.choice([processes, processes[:1], processes[1:]])
    for process in reached:
        process.send(signal.SIGTERM)
    codes = [process.wait() for process in processes]
    assert "Traceback" not in said(processes)
    assert_readable(run_dir)
    state = checkpoint.load(run_dir / "checkpoints" / "last.pt")["state"]
    if codes != [143, 143]:  # the training was over: a rank on its way out has nothing left to lose
        assert set(codes) <= {0, -signal.SIGTERM, 143}, (codes, said(processes))
        assert (state["step"], state["evaluated_step"]) == (8, 8), (codes, said(processes))
        return b""
    return aim


def stop_together_at_random(lab: Lab, reference: Path, seed: int, stops: int) -> list[bytes]:
    rng, hit = random.Random(seed), []
    while len(hit) < stops:
        run_dir = lab.new_folder()
        for _ in range(min(4, stops - len(hit))):
            hit += [phase] if (phase := stopped_together(lab, run_dir, rng)) else []
        finish_together(lab, run_dir)
        assert_same(run_dir, reference)
        shutil.rmtree(run_dir.parent)
    return hit


def test_twenty_random_signals_to_two_ranks_also_while_they_evaluate(lab: Lab, reference_of_two: Path) -> None:
    hit = stop_together_at_random(lab, reference_of_two, seed=1, stops=20)
    assert hit.count(EVALUATING) >= 3
    assert hit.count(SAVING) >= 2


@pytest.mark.parametrize("shift", range(4))
def test_rank_0_killed_in_saves_ends_the_other_and_the_run_goes_on(
    lab: Lab, reference_of_two: Path, shift: int
) -> None:
    """Four kills in a row, at other points of other saves with another `shift`."""
    run_dir = lab.new_folder()
    for step in (2, 4, 6, 8):
        event = POINTS[(3 * step + 2 * shift + step // 4) % 8]
        processes = go_on_together(lab, run_dir, crash={"step": step, "event": event})
        assert processes[0].wait() == -signal.SIGKILL, said(processes)
        assert processes[1].wait(AT_MOST) == 3, said(processes)
        assert_readable(run_dir)
    finish_together(lab, run_dir)
    assert_same(run_dir, reference_of_two)
    shutil.rmtree(run_dir.parent)


def test_rank_1_killed_at_random_ends_the_other_and_the_run_goes_on(lab: Lab, reference_of_two: Path) -> None:
    rng = random.Random(2)
    for _ in range(5):
        run_dir = lab.new_folder()
        for aim in (SAVING, EVALUATING):
            processes = go_on_together(lab, run_dir, phases=True)
            if processes[0].wait_for(aim, 1):
                time.sleep(rng.uniform(0, 0.05))
            processes[1].send(signal.SIGKILL)
            assert processes[1].wait() in (0, -signal.SIGKILL), said(processes)
            assert processes[0].wait(AT_MOST) in (0, 3), said(processes)
            assert_readable(run_dir)
        finish_together(lab, run_dir)
        assert_same(run_dir, reference_of_two)
        shutil.rmtree(run_dir.parent)
