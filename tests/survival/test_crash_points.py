"""A training killed at any moment of any save goes on to the same bits."""

import shutil
import signal
from pathlib import Path

import pytest

from tests.survival.disk import POINTS
from tests.survival.lab import Lab, assert_readable, assert_same

STEPS = range(1, 9)  # TINY saves after each


def test_every_save_passes_the_eight_points(reference: Path) -> None:
    for step in STEPS:
        passed = events_of(reference, step, save=1)
        assert list(dict.fromkeys(event for event in passed if event in POINTS)) == list(POINTS), f"{step}: {passed}"


def test_two_undisturbed_runs_are_the_same(lab: Lab, reference: Path) -> None:
    assert_same(lab.uninterrupted(), reference)


def saves_in(run_dir: Path, step: int) -> int:
    """How many times the step was saved: more than once where it was evaluated too."""
    return max(int(save) for number, save, *_ in recorded(run_dir) if number == str(step))


def events_of(run_dir: Path, step: int, save: int) -> list[str]:
    return [event for number, which, event, _ in recorded(run_dir) if (number, which) == (str(step), str(save))]


def recorded(run_dir: Path) -> list[list[str]]:
    """Step, save, event and file of every event of an undisturbed run."""
    return [line.split(" ") for line in (run_dir.parent / "events").read_text().splitlines()]


def killed_in(lab: Lab, run_dir: Path, step: int, event: str, save: int = 1, *overrides: str, **plan: str) -> None:
    process = lab.go_on(run_dir, *overrides, crash={"step": step, "save": save, "event": event}, **plan)
    assert process.wait() == -signal.SIGKILL, process.said()
    assert_readable(run_dir)


# Besides killing the process, a crash can cut the power: what is not yet on the disk is lost, in either way.
POWER = ("unsynced", "unsynced, renames")


@pytest.mark.parametrize(
    ("shift", "background", "power"), [(0, False, ""), (1, True, ""), (2, False, "unsynced, renames")]
)
def test_a_run_killed_once_in_every_save_becomes_the_undisturbed_run(
    lab: Lab, reference: Path, shift: int, background: bool, power: str
) -> None:
    """Eight kills, each at another of the eight points; with another `shift`, each save at another point."""
    run_dir = lab.new_folder()
    asynchronous = f"checkpoint.async={str(background).lower()}"
    for step in STEPS:
        killed_in(lab, run_dir, step, POINTS[(3 * step + shift) % 8], 1, asynchronous, power=power)
    lab.finish(run_dir, asynchronous)
    assert_same(run_dir, reference)
    shutil.rmtree(run_dir.parent)


@pytest.mark.slow
@pytest.mark.parametrize("event", POINTS)
@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("background", [False, True], ids=["in the loop", "in the background"])
def test_a_run_killed_at_one_point_becomes_the_undisturbed_run(
    lab: Lab, reference: Path, background: bool, step: int, event: str
) -> None:
    for save in range(1, saves_in(reference, step) + 1):
        run_dir = lab.new_folder()
        killed_in(lab, run_dir, step, event, save, f"checkpoint.async={str(background).lower()}")
        lab.finish(run_dir)
        assert_same(run_dir, reference)
        shutil.rmtree(run_dir.parent)


@pytest.mark.slow
@pytest.mark.parametrize("power", POWER)
@pytest.mark.parametrize("step", [1, 2, 4, 8])
def test_a_power_cut_at_any_event_of_a_save_costs_no_checkpoint(
    lab: Lab, reference: Path, step: int, power: str
) -> None:
    """Not only at the eight points, but at all that the save does to the disk: links, second names, pruning too."""
    for save in range(1, saves_in(reference, step) + 1):
        for event in dict.fromkeys(events_of(reference, step, save)):
            run_dir = lab.new_folder()
            killed_in(lab, run_dir, step, event, save, power=power)
            lab.finish(run_dir)
            assert_same(run_dir, reference)
            shutil.rmtree(run_dir.parent)
