"""Files that are there whole or not at all, whatever ends the process or the power."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO


@contextlib.contextmanager
def written_beside(path: Path, *parts: bytes | memoryview) -> Iterator[Path]:
    """A file of `parts`, one after the other, beside `path` and on the disk, for the caller to rename.

    What the caller leaves of it is removed.
    """
    temporary = hidden(path)
    try:
        with open(temporary, "wb") as file:
            for part in parts:
                file.write(part)
            file.flush()
            os.fsync(file.fileno())
        yield temporary
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_whole(path: Path, *parts: bytes | memoryview) -> None:
    """Writes `parts` so that at every instant the old file or the new one is there, whole."""
    with written_beside(path, *parts) as temporary:
        os.replace(temporary, path)
        sync_folder(path.parent)


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """A file to write to, which gets its name when the block has ended well, and leaves nothing otherwise."""
    temporary = hidden(path)
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync_folder(path.parent)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def hidden(path: Path) -> Path:
    """The temporary name of a file that will be called `path`: one only, so that a crash leaves no more than one."""
    return path.with_name(f".{path.name}.tmp")


def sync_folder(path: Path) -> None:
    """Makes the names in a folder outlast a power cut."""
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
