"""The labels of a picture too large for memory, as far as they are known."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from segtrain.engine.whole_files import write_whole
from segtrain.inference.blocks import grid
from segtrain.types import Area

STRIP = 512  # rows read at once


class LabelsOnDisk:
    """The labels of a picture as far as they are known: a raw file of uint8 rows, and a note of how far it goes.

    Args:
        folder: where both lie.
        area: of the picture.
    """

    def __init__(self, folder: Path, area: Area) -> None:
        self.folder, self.area = folder, area
        self.note, self.rows = folder / "progress.json", folder / "labels.raw"
        self.block = (0, 0)
        self.done = 0

    def begin(self, key: str, choose_block: Callable[[], tuple[int, int]]) -> None:
        """Goes on with what an earlier run with the same `key` left, or starts anew with blocks of the size chosen."""
        try:
            note = json.loads(self.note.read_text(encoding="utf-8"))
            self.key, self.block, self.done = note["key"], tuple(note["block"]), int(note["done"])
        except (OSError, ValueError, KeyError, TypeError):
            self.key = ""
        if self.key != key or not self.rows.is_file():
            self.key, self.block, self.done = key, choose_block(), 0
            self.folder.mkdir(parents=True, exist_ok=True)
            with open(self.rows, "wb") as file:
                file.truncate(self.area.height * self.area.width)
            self._write_note()

    def write(self, block: Area, labels: NDArray[np.uint8]) -> None:
        """Adds a block's labels, and then says so."""
        with open(self.rows, "r+b") as file:
            for row, line in zip(range(block.top, block.bottom), np.ascontiguousarray(labels), strict=True):
                file.seek(row * self.area.width + block.left)
                file.write(line.data)
            file.flush()
            os.fsync(file.fileno())
        self.done += 1
        self._write_note()

    def strips(self) -> Iterator[tuple[Area, NDArray[np.uint8]]]:
        """All labels, `STRIP` rows at a time."""
        with open(self.rows, "rb") as file:
            for strip in grid(self.area, STRIP, self.area.width):
                values = np.frombuffer(file.read(strip.height * strip.width), dtype=np.uint8)
                yield strip, values.reshape(strip.height, strip.width)

    def remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def _write_note(self) -> None:
        note = {"key": self.key, "block": self.block, "done": self.done}
        write_whole(self.note, json.dumps(note).encode())
