"""A process killed while it begins, or while it goes on with a run, leaves a run that can be gone on with."""

import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.survival.lab import Lab, Process, assert_readable, assert_same


def events_before_the_first_save(lab: Lab, begin: Callable[..., Process]) -> int:
    """How many events of the disk an undisturbed process passes before it serialises a state."""
    record = lab.new_folder().parent / "events"
    process = begin(record=str(record))
    assert process.wait() == 0, process.said()
    events = [line.split(" ")[2] for line in record.read_text().splitlines()]
    return events.index("serialise:before")


def at_every(count: int, slow: bool) -> list[int]:
    """All events, or two of them: one while the config is written, one while the log begins."""
    return list(range(count)) if slow else [2, count - 2]


@pytest.mark.parametrize("every", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_killed_while_a_run_begins_the_same_command_begins_it_again(lab: Lab, reference: Path, every: bool) -> None:
    count = events_before_the_first_save(lab, lambda **plan: lab.new(lab.new_folder(), **plan))
    for index in at_every(count, every):
        run_dir = lab.new_folder()
        process = lab.new(run_dir, "resume=auto", crash={"index": index})
        assert process.wait() == -signal.SIGKILL, process.said()
        process = lab.new(run_dir, "resume=auto")
        assert process.wait() == 0, f"killed at event {index}:\n{process.said()}"
        assert_same(run_dir, reference)
        shutil.rmtree(run_dir.parent)


@pytest.fixture(scope="module")
def killed_run(lab: Lab) -> Path:
    """A run killed when step 4 was saved but not evaluated: what it has logged of the evaluation counts no more."""
    run_dir = lab.new_folder()
    process = lab.new(run_dir, crash={"step": 4, "save": 2, "event": "serialise:before"})
    assert process.wait() == -signal.SIGKILL, process.said()
    return run_dir


@pytest.mark.parametrize("every", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_killed_while_a_run_is_taken_up_it_can_be_taken_up_again(
    lab: Lab, reference: Path, killed_run: Path, every: bool
) -> None:
    def copied() -> Path:
        return Path(shutil.copytree(killed_run, lab.new_folder()))

    count = events_before_the_first_save(lab, lambda **plan: lab.go_on(copied(), **plan))
    for index in at_every(count, every):
        run_dir = copied()
        process = lab.go_on(run_dir, crash={"index": index})
        assert process.wait() == -signal.SIGKILL, process.said()
        assert_readable(run_dir)
        lab.finish(run_dir)
        assert_same(run_dir, reference)
        shutil.rmtree(run_dir.parent)
