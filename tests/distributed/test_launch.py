"""Processes that are started together end together, and what went wrong in one of them is known."""

import os
import signal
import threading
import time
from pathlib import Path

import pytest
import torch

from segtrain.distributed.launch import launch
from segtrain.distributed.outcome import Outcome, RankError, verdict
from segtrain.distributed.place import place_in
from segtrain.distributed.world import World, join
from segtrain.errors import ConfigError, MachineError, Stopped

LOST = Outcome(0, "lost", 3, "another process of this run ended")


@pytest.mark.parametrize(
    ("outcomes", "told", "kind", "text"),
    [
        ([Outcome(0, "done"), Outcome(1, "done")], None, type(None), "None"),
        ([Outcome(0, "done"), Outcome(1, "done")], signal.SIGTERM, type(None), "None"),
        ([LOST, Outcome(1, "failed", 2, "x: no")], None, RankError, "rank 1: x: no"),
        ([Outcome(1, "failed", 2, "x: no"), Outcome(0, "failed", 2, "x: no")], None, RankError, "x: no"),
        ([Outcome(1, "died", -9), LOST], None, MachineError, "rank 1 was ended by SIGKILL (out of memory?"),
        ([Outcome(1, "died", 1), LOST], None, MachineError, "rank 1 ended with exit code 1 before it could say why"),
        ([Outcome(1, "died", -15), LOST], None, Stopped, "stopped by SIGTERM"),
        ([Outcome(1, "stopped", 10), Outcome(0, "stopped", 10)], None, Stopped, "stopped by SIGUSR1"),
        ([LOST, Outcome(1, "ended")], signal.SIGINT, Stopped, "stopped by SIGINT"),
        ([LOST, Outcome(1, "ended")], None, MachineError, "rank 1 gave no answer and was ended: another process"),
        ([Outcome(1, "bug", 1, "KeyError: 'a'"), LOST], None, RuntimeError, "rank 1: KeyError: 'a'"),
    ],
    ids=lambda value: "" if isinstance(value, list) else None,
)
def test_the_first_reason_of_its_own_counts(outcomes: list[Outcome], told: int | None, kind: type, text: str) -> None:
    error = verdict(outcomes, told)
    assert type(error) is kind
    assert str(error).startswith(text)


def part(folder: Path, what: str) -> None:
    """What the second of two processes does while the first waits for it, over and over."""
    place = place_in(os.environ)
    assert place is not None
    with join(place.rank, place.size, place.local_rank, torch.device("cpu"), timeout=5) as world:
        (folder / f"pid{world.rank}").write_text(str(os.getpid()))
        if world.rank == 1:
            _misbehave(what)
        _together(world, steps=None if what in ("fail", "die", "hang", "wait", "bug") else 3)
        (folder / f"done{world.rank}").touch()


def _misbehave(what: str) -> None:
    if what == "fail":
        raise ConfigError("model.x=1: no")
    if what == "bug":
        raise KeyError("lost")
    if what == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "hang":
        os.kill(os.getpid(), signal.SIGSTOP)


def _together(world: World, steps: int | None) -> None:
    step = 0
    while steps is None or step < steps:
        world.barrier()
        step += 1
        time.sleep(0.01)


def gone(folder: Path) -> bool:
    """Whether neither process is there any more."""
    pids = [int((folder / f"pid{rank}").read_text()) for rank in range(2)]
    return not any(Path(f"/proc/{pid}").exists() for pid in pids)


def test_all_goes_well(tmp_path: Path) -> None:
    launch(2, part, tmp_path, "work")
    assert {path.name for path in tmp_path.iterdir()} >= {"done0", "done1"}
    assert gone(tmp_path)


@pytest.mark.parametrize(
    ("what", "kind", "code", "text"),
    [
        ("fail", RankError, 2, "rank 1: model.x=1: no"),
        ("die", MachineError, 3, "rank 1 was ended by SIGKILL"),
        pytest.param("bug", RuntimeError, None, "rank 1: KeyError: 'lost'", marks=pytest.mark.slow),
        pytest.param("hang", MachineError, 3, "rank 1 gave no answer and was ended", marks=pytest.mark.slow),
    ],
)
def test_what_ends_one_ends_all_and_is_named(
    tmp_path: Path, what: str, kind: type[Exception], code: int | None, text: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(kind) as caught:
        launch(2, part, tmp_path, what)
    assert getattr(caught.value, "exit_code", None) == code
    assert str(caught.value).startswith(text)
    assert gone(tmp_path)
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_a_signal_reaches_every_process(tmp_path: Path, number: int) -> None:
    def send() -> None:
        while not all((tmp_path / f"pid{rank}").is_file() for rank in range(2)):
            time.sleep(0.02)
        os.kill(os.getpid(), number)

    thread = threading.Thread(target=send)
    thread.start()
    with pytest.raises(Stopped) as caught:
        launch(2, part, tmp_path, "wait")
    thread.join()
    assert caught.value.number == number
    assert gone(tmp_path)
