"""Files that are there whole or not at all, whatever ends the process or the power."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO


@contextlib.contextmanager
def beside(path: Path) -> Iterator[Path]:
    """The temporary name of a file beside `path`, for the caller to write and to `rename`; what is left is removed."""
    temporary = hidden(path)
    try:
        yield temporary
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def written_beside(path: Path, *parts: bytes | memoryview) -> Iterator[Path]:
    """A file of `parts`, one after the other, beside `path` and on the disk, for the caller to rename.

    What the caller leaves of it is removed.
    """
    with beside(path) as temporary:
        with open(temporary, "wb") as file:
            for part in parts:
                file.write(part)
            _sync(file)
        yield temporary


def write_whole(path: Path, *parts: bytes | memoryview) -> None:
    """Writes `parts` so that at every instant the old file or the new one is there, whole."""
    with written_beside(path, *parts) as temporary:
        rename(temporary, path)


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """A file to write to, which gets its name when the block has ended well, and leaves nothing otherwise."""
    with beside(path) as temporary:
        with open(temporary, "wb") as file:
            yield file
            _sync(file)
        rename(temporary, path)


def rename(temporary: Path, path: Path) -> None:
    """Gives a file that is on the disk its name, which outlasts a power cut."""
    os.replace(temporary, path)
    sync_folder(path.parent)


def hidden(path: Path) -> Path:
    """The temporary name of a file that will be called `path`: one only, so that a crash leaves no more than one."""
    return path.with_name(f".{path.name}.tmp")


def sync(path: Path) -> None:
    """Puts on the disk what another library wrote to a file."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def sync_folder(path: Path) -> None:
    """Makes the names in a folder outlast a power cut."""
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _sync(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())
