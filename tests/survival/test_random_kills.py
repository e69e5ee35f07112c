"""A training killed with `kill -9` from outside, at any time and many times over, goes on to the same bits."""

import random
import shutil
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.survival.child import EVALUATING, SAVING, TRAINING
from tests.survival.lab import Lab, Process, assert_readable, assert_same

PHASES = {TRAINING: "training", SAVING: "saving", EVALUATING: "evaluating"}
# Which moment a kill is aimed at, as long as the shares demanded below are not reached with some room.
AIMED = {"saving": 0.45, "evaluating": 0.1}


class Killer:
    """Kills at random moments and counts the phases it hit."""

    def __init__(self, lab: Lab, seed: int) -> None:
        self.lab = lab
        self.random = random.Random(seed)
        self.hit: Counter[str] = Counter()
        self.save, self.evaluation, self.training = self._durations()

    def _durations(self) -> Iterator[float]:
        """Seconds that a save, an evaluation and the training take here, today."""
        process = self.lab.new(self.lab.new_folder(), phases=True)
        moments: list[tuple[bytes, float]] = []
        while not process.over():
            before = len(process.phases)
            now = process.read_phases(1.0)[before:]
            moments += [(bytes([letter]), time.monotonic()) for letter in now]
        assert process.wait() == 0, process.said()
        for phase in (SAVING, EVALUATING):
            begun = [moment for letter, moment in moments if letter == phase]
            ended = [moment for letter, moment in moments if letter == phase.lower()]
            yield sorted(end - begin for begin, end in zip(begun, ended, strict=True))[len(begun) // 2]
        yield moments[-1][1] - moments[0][1]

    def kill(self, run_dir: Path) -> bool:
        """Goes on with the run and kills it; False where it was done before the blow came."""
        process = self.lab.go_on(run_dir, phases=True)
        aim = self._aim()
        if aim == "saving":
            reached = process.wait_for(SAVING, self.random.randint(1, 4))
            delay = self.random.uniform(0, self.save)
        elif aim == "evaluating":
            reached = process.wait_for(EVALUATING, 1)
            delay = self.random.uniform(0, self.evaluation)
        else:
            reached = process.wait_for(TRAINING, 1) if self.random.random() < 0.8 else True
            delay = self.random.uniform(0, self.training)
        if reached:
            time.sleep(delay)
        return self._strike(process, run_dir)

    def _aim(self) -> str:
        total = max(self.hit.total(), 1)
        wanted = [phase for phase, share in AIMED.items() if self.hit[phase] / total < share]
        return self.random.choice([*wanted, "anything"])

    def _strike(self, process: Process, run_dir: Path) -> bool:
        process.send(signal.SIGKILL)
        code = process.wait()
        assert code in (0, -signal.SIGKILL), process.said()
        if code == 0:
            return False
        self.hit[PHASES.get(process.phase(), "starting")] += 1
        assert_readable(run_dir)
        return True


def kill_at_random(lab: Lab, reference: Path, seed: int, kills: int) -> Counter[str]:
    """`kills` kills in chains of 1 to 4, each chain ending in the state of `reference`; returns the phases hit."""
    killer = Killer(lab, seed)
    while killer.hit.total() < kills:
        run_dir = lab.new_folder()
        for _ in range(min(killer.random.randint(1, 4), kills - killer.hit.total())):
            if not killer.kill(run_dir):
                break
        lab.finish(run_dir)
        assert_same(run_dir, reference)
        shutil.rmtree(run_dir.parent)
    return killer.hit


def test_a_run_killed_at_random_becomes_the_undisturbed_run(lab: Lab, reference: Path) -> None:
    hit = kill_at_random(lab, reference, seed=0, kills=16)
    assert hit.total() == 16
    assert hit["saving"] >= 1  # the shares are demanded of the two hundred: sixteen are few on a busy machine


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_two_hundred_random_kills_of_which_a_third_strikes_a_save(lab: Lab, reference: Path) -> None:
    hit = kill_at_random(lab, reference, seed=1, kills=200)
    print(dict(hit))
    assert hit.total() == 200
    assert hit["saving"] >= 60
    assert hit["evaluating"] >= 10
    assert hit["training"] >= 20
