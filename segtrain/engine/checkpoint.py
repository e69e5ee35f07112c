"""Checkpoint files: written whole or not at all, verified before they are read, nothing but tensors and plain values.

A file is what `torch.save` writes, followed by a footer (`segtrain.weights.footer`) whose digest `load` verifies first.
"""

import contextlib
import errno
import io
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from segtrain.engine.whole_files import rename, write_whole, written_beside
from segtrain.errors import CheckpointError, MachineError
from segtrain.weights.footer import footer, has_footer, verified

# 2: averaged weights, the log's unfinished line, the generators of every rank, the steps of the files kept beside it.
SCHEMA = 2


def save(contents: dict[str, Any], path: Path) -> None:
    """Writes `contents` to `path` so that at every instant the old file or the new one is there, whole.

    Args:
        contents: tensors, numbers, strings, and dicts, lists and tuples of them; `schema` is added.
        path: its folder must exist.

    Raises:
        MachineError: the disk is full or the folder not writable; the old file is intact.
    """
    with state_beside(contents, path) as temporary:
        rename(temporary, path)


@contextlib.contextmanager
def state_beside(contents: dict[str, Any], path: Path) -> Iterator[Path]:
    """A whole file of `contents` beside `path`, on the disk, for the caller to rename; what is left is removed.

    Raises:
        MachineError: the disk is full or the folder not writable, here or in the caller's block.
    """
    buffer = io.BytesIO()
    torch.save({"schema": SCHEMA, **contents}, buffer)
    body = buffer.getbuffer()
    with _failure_named(path, len(body)), written_beside(path, body, footer(body)) as temporary:
        yield temporary


def save_bytes(data: bytes, path: Path) -> None:
    """Writes `data` as `save` writes contents."""
    with _failure_named(path, len(data)):
        write_whole(path, data)


@contextlib.contextmanager
def _failure_named(path: Path, size: int) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise MachineError(_not_written(path, size, error)) from error


def _not_written(path: Path, size: int, error: OSError) -> str:
    kept = "the file before it is intact" if path.is_file() else "nothing was written"
    if error.errno not in (errno.ENOSPC, errno.EDQUOT):
        return f"{path}: cannot be written: {error.strerror}; {kept}; make the folder writable and go on with resume="
    free = shutil.disk_usage(path.parent).free
    return (
        f"{path}: cannot be written: {error.strerror}: {size:,} bytes ({size / 2**20:.1f} MiB) are needed, "
        f"{free:,} are free; {kept}; free some space and go on with resume="
    )


def load(path: Path) -> dict[str, Any]:
    """Reads a file written by `save`; tensors arrive on the CPU.

    Raises:
        CheckpointError: the file is missing, is no segtrain checkpoint, is damaged, or was written by a newer segtrain.
    """
    data = read_bytes(path)
    if not has_footer(data):
        raise CheckpointError(
            f"{path}: not a segtrain checkpoint, or cut off; expected a file written by segtrain train"
        )
    body = verified(data, path)
    contents = _unpickle(body, path)
    if not isinstance(contents, dict) or "schema" not in contents:
        raise CheckpointError(f"{path}: not a segtrain checkpoint: it has no schema")
    return upgraded(contents, path)


def read_bytes(path: Path) -> bytes:
    """The whole file. Raises CheckpointError where there is none, or it is a folder or cannot be read."""
    if path.is_dir():
        raise CheckpointError(f"{path} is a folder; name the file, such as {path / 'checkpoints' / 'best.pt'}")
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such checkpoint file") from None
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from None


def upgraded(contents: dict[str, Any], path: Path) -> dict[str, Any]:
    """What an older segtrain wrote, in the present schema. Raises CheckpointError for what a newer one wrote."""
    if contents["schema"] not in (1, SCHEMA):
        raise CheckpointError(
            f"{path}: has checkpoint schema {contents['schema']}, this segtrain reads up to {SCHEMA}; update segtrain"
        )
    if contents["schema"] == 1:
        contents |= {"schema": SCHEMA, "ema": None, "window": None, "kept": []}
        if "random" in contents:
            contents["random"] = [contents["random"]]
    return contents


def _unpickle(body: memoryview, path: Path) -> Any:
    """A digest proves the file whole, not well-meant: zip bombs and pickled code are refused."""
    try:
        with zipfile.ZipFile(io.BytesIO(body)) as archive:
            records = archive.infolist()
        compressed = any(record.compress_type != zipfile.ZIP_STORED for record in records)
        if compressed or sum(record.file_size for record in records) > len(body) or bytes(body[:4]) != b"PK\3\4":
            raise CheckpointError(f"{path}: holds compressed or overlapping records, which segtrain never writes")
        return torch.load(io.BytesIO(body), map_location="cpu", weights_only=True)
    except CheckpointError:
        raise
    except Exception:  # a malformed pickle fails in any way; torch's own text would advise weights_only=False
        raise CheckpointError(f"{path}: holds more than tensors and plain values; not read") from None
