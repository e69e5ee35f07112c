"""A disk that becomes full within a save ends the run in one line and takes nothing of what was saved."""

import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from segtrain.engine import checkpoint
from tests.survival.lab import Lab, assert_readable, assert_same

SHARES = (0.0, 0.02, 0.5, 0.9, 0.999)  # of a checkpoint that still fit


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path | None]:
    """A disk of 8 MiB; None where this process may mount none."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "segtrain-test", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        yield None
        return
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture
def no_disk() -> None:
    """Writing only fails as on a full disk, for machines where nothing can be mounted."""


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("disk", ["small_disk", pytest.param("no_disk", marks=pytest.mark.slow)])
def test_a_disk_full_after_part_of_a_save_costs_only_that_save(
    lab: Lab, reference: Path, request: pytest.FixtureRequest, disk: str, share: float
) -> None:
    folder: Path | None = request.getfixturevalue(disk)
    run_dir = lab.new_folder() if folder is None else folder / "run"
    size = (reference / "checkpoints" / "last.pt").stat().st_size
    fill = {"step": 3, "event": "serialise:before", "leave": int(size * share)}
    process = lab.new(run_dir, fill=fill if folder is None else fill | {"folder": str(folder)})
    assert process.wait() == 3, process.said()
    assert_is_one_line_with_the_file_and_the_bytes(process.said(), run_dir)
    assert_readable(run_dir)
    assert checkpoint.load(run_dir / "checkpoints" / "last.pt")["state"]["step"] == 2
    assert not list((run_dir / "checkpoints").glob(".*"))
    if folder is not None:
        (folder / "ballast").unlink()
    lab.finish(run_dir)
    assert_same(run_dir, reference)


def test_a_disk_full_between_two_saves_ends_the_run_in_one_line(
    lab: Lab, reference: Path, small_disk: Path | None
) -> None:
    """Then it is the log, the results or a picture that finds no room."""
    if small_disk is None:
        pytest.skip("nothing can be mounted here")
    run_dir = small_disk / "run"
    rarely = ("trainer.save_every=null", "trainer.log_every=1")
    fill = {"step": 4, "event": "folder:after", "leave": 0, "folder": str(small_disk)}
    process = lab.new(run_dir, *rarely, fill=fill)
    assert process.wait() == 3, process.said()
    assert [line for line in process.said().splitlines() if line.startswith("segtrain: error: ")]
    assert "Traceback" not in process.said()
    assert checkpoint.load(run_dir / "checkpoints" / "last.pt")["state"]["step"] == 4
    (small_disk / "ballast").unlink()
    lab.finish(run_dir)
    assert_same(run_dir, lab.uninterrupted(*rarely))


def assert_is_one_line_with_the_file_and_the_bytes(said: str, run_dir: Path) -> None:
    (line,) = [line for line in said.splitlines() if line.startswith("segtrain: error: ")]
    assert str(run_dir / "checkpoints" / "last.pt") in line
    assert "No space left on device" in line
    assert "bytes" in line
    assert "Traceback" not in said


def test_a_run_that_stops_by_a_signal_on_a_full_disk_ends_all_the_same(lab: Lab) -> None:
    run_dir = lab.new_folder()
    process = lab.new(run_dir, phases=True, fill={"step": 3, "event": "serialise:before", "leave": 0})
    assert process.wait_for(b"S", 3)
    process.send(signal.SIGTERM)
    assert process.wait() == 3, process.said()
    assert checkpoint.load(run_dir / "checkpoints" / "last.pt")["state"]["step"] == 2
