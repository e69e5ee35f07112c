"""A damaged checkpoint is noticed, whichever bit it is, and costs one save."""

import random
import shutil
import signal
from pathlib import Path

import pytest

from segtrain.engine import checkpoint
from segtrain.errors import CheckpointError
from tests.survival.lab import Lab, assert_same

FOOTER = 40  # bytes at the end of a file: a mark of 8, a SHA-256 of 32


def test_each_of_two_hundred_flipped_bits_is_noticed(reference: Path, tmp_path: Path) -> None:
    """Anywhere in a real checkpoint, and one in every byte of the footer."""
    good = (reference / "checkpoints" / "last.pt").read_bytes()
    rng = random.Random(0)
    anywhere = [rng.randrange(len(good)) for _ in range(200 - FOOTER)]
    path = tmp_path / "last.pt"
    path.write_bytes(good)
    checkpoint.load(path)
    for position in (*anywhere, *range(len(good) - FOOTER, len(good))):
        bad = bytearray(good)
        bad[position] ^= 1 << rng.randrange(8)
        path.write_bytes(bad)
        with pytest.raises(CheckpointError):
            checkpoint.load(path)


@pytest.mark.parametrize("damage", ["a flipped bit", "half of it", "nothing left"])
def test_a_damaged_newest_file_costs_one_save_and_one_warning(lab: Lab, reference: Path, damage: str) -> None:
    run_dir = lab.new_folder()
    process = lab.new(run_dir, crash={"step": 6, "event": "serialise:before"})
    assert process.wait() == -signal.SIGKILL, process.said()
    last = run_dir / "checkpoints" / "last.pt"
    good = last.read_bytes()
    flipped = bytearray(good)
    flipped[len(good) // 2] ^= 1
    last.unlink()  # it may be a second name of another file
    last.write_bytes(
        {"a flipped bit": bytes(flipped), "half of it": good[: len(good) // 2], "nothing left": b""}[damage]
    )
    process = lab.go_on(run_dir)
    assert process.wait() == 0, process.said()
    assert [line for line in process.said().splitlines() if "last.pt" in line and "going on from" in line]
    assert process.said().count("going on from") == 1
    assert_same(run_dir, reference)
    shutil.rmtree(run_dir.parent)
