"""The labels of a picture too large for memory, as far as they are known."""

import contextlib
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

    Attributes:
        rest: the part of the picture that is predicted in blocks of one size; rows above it are done.
        block: height and width of these blocks.
        done: how many of them are done.
    """

    def __init__(self, folder: Path, area: Area) -> None:
        self.folder, self.area = folder, area
        self.note, self.rows = folder / "progress.json", folder / "labels.raw"
        self.key, self.memory = "", 0
        self.rest, self.block, self.done = area, (0, 0), 0

    def begin(self, key: str, memory: int, choose_block: Callable[[Area], tuple[int, int]]) -> None:
        """Goes on with what an earlier run with the same `key` left, or begins anew.

        Args:
            key: of all that the labels depend on.
            memory: the budget. Where it is less than that of the earlier run, rows that are not done get other blocks.
            choose_block: the size of the blocks of an area.
        """
        self._read_note()
        if self.key != key or not self.rows.is_file():
            self.note.unlink(missing_ok=True)  # before the labels that it speaks of
            self.folder.mkdir(parents=True, exist_ok=True)
            self.key, self.memory = key, memory
            self.rest, self.block, self.done = self.area, choose_block(self.area), 0
            with open(self.rows, "wb") as file:
                file.truncate(self.area.height * self.area.width)
        elif memory < self.memory and self.done < len(self.blocks):
            self.rest = self.rest._replace(top=self.blocks[self.done].top)
            self.memory, self.block, self.done = memory, choose_block(self.rest), 0
        self._write_note()

    @property
    def blocks(self) -> list[Area]:
        """The blocks of `rest`, in their order."""
        return grid(self.rest, *self.block)

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

    def _read_note(self) -> None:
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            note = json.loads(self.note.read_text(encoding="utf-8"))
            height, width = note["block"]
            self.rest = self.area._replace(top=int(note["top"]))
            self.block, self.done = (int(height), int(width)), int(note["done"])
            self.key, self.memory = str(note["key"]), int(note["memory"])

    def _write_note(self) -> None:
        note = {"key": self.key, "memory": self.memory, "top": self.rest.top, "block": self.block, "done": self.done}
        write_whole(self.note, json.dumps(note).encode())
