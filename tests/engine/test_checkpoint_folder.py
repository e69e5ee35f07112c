"""Which checkpoints a run keeps, deletes, and goes on from."""

import logging
import os
from pathlib import Path

import pytest
import torch

from segtrain.engine import checkpoint
from segtrain.engine.checkpoint_folder import CheckpointFolder, CheckpointOptions, newest_sound
from segtrain.engine.run_directory import RunDirectory
from segtrain.errors import CheckpointError, ConfigError, MachineError


@pytest.fixture
def directory(tmp_path: Path) -> RunDirectory:
    return RunDirectory.create(tmp_path / "run", tmp_path, "", "")


def folder(directory: RunDirectory, keep_last: int, in_background: bool = False) -> CheckpointFolder:
    return CheckpointFolder(directory, CheckpointOptions(keep_last, in_background), None)


def contents(step: int) -> dict:
    return {"state": {"step": step}, "model": {"weight": torch.full((3,), float(step))}}


def names(directory: RunDirectory) -> list[str]:
    return sorted(path.name for path in directory.checkpoints.iterdir())


def steps(directory: RunDirectory) -> dict[str, int]:
    return {path.name: checkpoint.load(path)["state"]["step"] for path in directory.checkpoints.iterdir()}


@pytest.mark.parametrize("in_background", [False, True])
def test_so_many_of_the_newest_are_kept_and_the_best_besides(directory: RunDirectory, in_background: bool) -> None:
    saves = folder(directory, keep_last=3, in_background=in_background)
    for step in range(10, 70, 10):
        saves.save(contents(step), step, best=step == 20)
    saves.finish()
    assert steps(directory) == {"last.pt": 60, "step_0000050.pt": 50, "step_0000040.pt": 40, "best.pt": 20}


def test_one_kept_is_last_alone(directory: RunDirectory) -> None:
    saves = folder(directory, keep_last=1)
    saves.save(contents(1), 1, best=False)
    saves.save(contents(2), 2, best=False)
    assert steps(directory) == {"last.pt": 2}


def test_a_step_saved_twice_has_one_file(directory: RunDirectory) -> None:
    saves = folder(directory, keep_last=2)
    for step in (1, 2, 2):
        saves.save(contents(step), step, best=False)
    assert steps(directory) == {"last.pt": 2, "step_0000001.pt": 1}


def test_a_resumed_run_deletes_what_it_wrote_before_and_nothing_else(directory: RunDirectory) -> None:
    first = folder(directory, keep_last=2)
    for step in (1, 2):
        first.save(contents(step), step, best=False)
    (directory.checkpoints / "step_0000000.pt").write_bytes(b"a copy of the user's own")
    saved = checkpoint.load(directory.last)
    second = CheckpointFolder(directory, CheckpointOptions(2, False), (2, saved["kept"]))
    second.save(contents(3), 3, best=False)
    assert names(directory) == ["last.pt", "step_0000000.pt", "step_0000002.pt"]


def test_a_disk_without_second_names_gets_copies(directory: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    saves = folder(directory, keep_last=2)
    saves.save(contents(1), 1, best=True)
    saves.save(contents(2), 2, best=False)
    assert steps(directory) == {"last.pt": 2, "step_0000001.pt": 1, "best.pt": 1}


def test_what_is_written_in_the_background_is_what_was_there_when_it_was_asked_for(directory: RunDirectory) -> None:
    weights = torch.zeros(1_000_000)
    saves = folder(directory, keep_last=1, in_background=True)
    saves.save({"state": {"step": 1}, "model": {"weight": weights}}, 1, best=False)
    weights.fill_(1)
    saves.finish()
    assert not checkpoint.load(directory.last)["model"]["weight"].any()


def test_a_failure_in_the_background_is_raised_in_the_training(
    directory: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    saves = folder(directory, keep_last=1, in_background=True)
    saves.save(contents(1), 1, best=False)
    saves.finish()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    saves.save(contents(2), 2, best=False)
    with pytest.raises(MachineError, match="No space left on device"):
        saves.finish()
    assert steps(directory) == {"last.pt": 1}


def test_a_damaged_newest_falls_back_to_the_one_before_with_one_warning(
    directory: RunDirectory, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("segtrain"), "propagate", True)
    saves = folder(directory, keep_last=3)
    for step in (1, 2, 3):
        saves.save(contents(step), step, best=step == 1)
    for path in (directory.last, directory.step(2)):
        data = bytearray(path.read_bytes())
        data[200] ^= 4
        path.write_bytes(data)
    path, found = newest_sound(directory)
    assert (path.name, found["state"]["step"]) == ("step_0000001.pt", 1)
    assert len(caplog.records) == 1
    assert "last.pt: damaged" in caplog.text
    assert "going on from step_0000001.pt, of step 1" in caplog.text


@pytest.mark.parametrize("crash", [False, True])
def test_after_a_fall_back_the_damaged_file_does_not_take_the_place_of_the_sound_one(
    directory: RunDirectory, monkeypatch: pytest.MonkeyPatch, crash: bool
) -> None:
    first = folder(directory, keep_last=2)
    for step in (1, 2):
        first.save(contents(step), step, best=False)
    directory.last.unlink()  # it may be a second name of another file
    directory.last.write_bytes(b"damaged")
    path, found = newest_sound(directory)
    second = CheckpointFolder(directory, CheckpointOptions(2, False), (1, found["kept"]))
    assert path == directory.step(1)
    if crash:
        replace = os.replace
        monkeypatch.setattr(os, "replace", lambda source, target: target != directory.last and replace(source, target))
    second.save(contents(2), 2, best=False)
    assert checkpoint.load(directory.step(1))["state"]["step"] == 1
    assert crash or steps(directory) == {"last.pt": 2, "step_0000001.pt": 1}


def test_a_failed_save_is_no_save(directory: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    saves = folder(directory, keep_last=2)
    saves.save(contents(1), 1, best=False)

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(MachineError):
            saves.save(contents(2), 2, best=False)
    saves.save(contents(3), 3, best=False)
    assert steps(directory) == {"last.pt": 3, "step_0000001.pt": 1}


def test_where_nothing_is_sound_the_newest_is_named(directory: RunDirectory) -> None:
    for name in ("last.pt", "best.pt"):
        (directory.checkpoints / name).write_bytes(b"x" * 100)
    with pytest.raises(CheckpointError, match=r"last\.pt: not a segtrain checkpoint"):
        newest_sound(directory)


def test_none_kept_is_refused() -> None:
    with pytest.raises(ConfigError, match="checkpoint.keep_last=0"):
        CheckpointOptions(0, False)
