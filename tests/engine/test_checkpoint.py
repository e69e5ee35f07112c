"""Checkpoint files: whole or not at all, verified, nothing but tensors and plain values."""

import io
import os
import zipfile
from pathlib import Path

import pytest
import torch

from segtrain.engine import checkpoint
from segtrain.errors import CheckpointError, MachineError
from segtrain.weights.footer import footer, verified

CONTENTS = {"model": {"weight": torch.arange(12.0).view(3, 4)}, "state": {"step": 7}, "config": {"a": [1, None, "x"]}}


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "last.pt"
    checkpoint.save(CONTENTS, path)
    return path


def test_what_is_saved_is_loaded(saved: Path) -> None:
    loaded = checkpoint.load(saved)
    assert torch.equal(loaded["model"]["weight"], CONTENTS["model"]["weight"])
    assert (loaded["state"], loaded["config"]) == (CONTENTS["state"], CONTENTS["config"])


def test_torch_itself_reads_the_file(saved: Path) -> None:
    assert torch.load(saved, weights_only=True)["state"] == {"step": 7}


def test_every_flipped_bit_is_noticed(saved: Path) -> None:
    good = saved.read_bytes()
    for position in range(0, len(good), max(1, len(good) // 200)):
        bad = bytearray(good)
        bad[position] ^= 1 << (position % 8)
        saved.write_bytes(bad)
        with pytest.raises(CheckpointError):
            checkpoint.load(saved)


@pytest.mark.parametrize("kept", [0, 10, 39, 40, 500])
def test_a_cut_off_file_is_noticed(saved: Path, kept: int) -> None:
    saved.write_bytes(saved.read_bytes()[:kept])
    with pytest.raises(CheckpointError, match="not a segtrain checkpoint, or cut off"):
        checkpoint.load(saved)


def test_a_failed_save_leaves_the_old_file_and_no_other(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = saved.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(
        MachineError, match=r"No space left on device: [\d,]+ bytes .* are needed, [\d,]+ are free; the file before"
    ):
        checkpoint.save(CONTENTS, saved)
    assert saved.read_bytes() == before
    assert [path.name for path in saved.parent.iterdir()] == ["last.pt"]


def test_compressed_records_are_refused(saved: Path) -> None:
    body = verified(saved.read_bytes(), saved)
    packed = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(body)) as old, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as new:
        for record in old.infolist():
            new.writestr(record.filename, old.read(record))
    saved.write_bytes(packed.getvalue() + footer(packed.getvalue()))
    with pytest.raises(CheckpointError, match="compressed"):
        checkpoint.load(saved)


def test_pickled_code_is_refused_without_advice_to_trust_it(tmp_path: Path) -> None:
    path = tmp_path / "evil.pt"
    buffer = io.BytesIO()
    torch.save({"schema": 1, "model": Path("x")}, buffer)
    path.write_bytes(buffer.getvalue() + footer(buffer.getvalue()))
    with pytest.raises(CheckpointError) as caught:
        checkpoint.load(path)
    assert "weights_only" not in str(caught.value)
    assert "more than tensors" in str(caught.value)


def test_a_newer_schema_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "new.pt"
    monkeypatch.setattr(checkpoint, "SCHEMA", 99)
    checkpoint.save({}, path)
    monkeypatch.undo()
    with pytest.raises(CheckpointError, match="schema 99"):
        checkpoint.load(path)


def test_missing_files_and_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        checkpoint.load(tmp_path / "none.pt")
    with pytest.raises(CheckpointError, match="is a folder"):
        checkpoint.load(tmp_path)
