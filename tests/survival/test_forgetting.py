"""The comparison has teeth: a resumed run that has lost any one part of its state does not become the same run."""

import signal
from pathlib import Path

import pytest

from tests.survival.child import FORGET
from tests.survival.fingerprint import fingerprint
from tests.survival.lab import Lab

# A scaler so large that it has to shrink first and grows again, and averages that warm up: all states count.
SCALED = {"scaler": True}


@pytest.fixture(scope="module")
def scaled_reference(lab: Lab) -> Path:
    return lab.uninterrupted(**SCALED)


def resumed_after_step_three(lab: Lab, **plan: object) -> str:
    run_dir = lab.new_folder()
    process = lab.new(run_dir, **SCALED, crash={"step": 4, "event": "serialise:before"})
    assert process.wait() == -signal.SIGKILL, process.said()
    return lab.finish(run_dir, **SCALED, **plan)


def test_a_run_that_remembers_everything_becomes_the_same(lab: Lab, scaled_reference: Path) -> None:
    assert resumed_after_step_three(lab) == fingerprint(scaled_reference)


@pytest.mark.parametrize("part", FORGET)
def test_a_run_that_forgets_one_part_becomes_another(lab: Lab, scaled_reference: Path, part: str) -> None:
    assert resumed_after_step_three(lab, forget=part) != fingerprint(scaled_reference)
