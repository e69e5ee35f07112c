"""The checkpoints of one run: which states are kept, in which order files change, and which one a run goes on from."""

import contextlib
import logging
import os
import re
import shutil
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from segtrain.engine import checkpoint
from segtrain.engine.run_directory import RunDirectory
from segtrain.engine.whole_files import hidden, rename
from segtrain.errors import CheckpointError, ConfigError

log = logging.getLogger("segtrain")


@dataclass(frozen=True)
class CheckpointOptions:
    """The `checkpoint` config; `configs/train.yaml` says what each key does.

    `async` is a word of Python's own, hence the underscore.
    """

    keep_last: int
    async_: bool

    def __post_init__(self) -> None:
        if self.keep_last < 1:
            raise ConfigError(f"checkpoint.keep_last={self.keep_last} must be at least 1: last.pt itself")


class CheckpointFolder:
    """Writes the states of one run: `last.pt`, those before it as `step_<step>.pt`, and `best.pt`.

    Files change in an order in which a crash at any instant leaves the newest state or the one before it under a name
    that `newest_sound` finds. Nothing is deleted but what this object, or the run it goes on with, has written.

    Args:
        directory: of the run.
        options: how many states are kept, and whether they are written in the background.
        resumed: (step, kept) of the checkpoint that the run goes on from: its step, and the steps of the files beside
            it that the run has written, oldest first; None for a new run.
    """

    def __init__(
        self, directory: RunDirectory, options: CheckpointOptions, resumed: tuple[int, Sequence[int]] | None
    ) -> None:
        self.directory = directory
        self.options = options
        self._last_step: int | None = None  # of the present last.pt; None: there is none, or none that is sound
        self._kept: list[int] = []
        if resumed is not None:
            self._take_up(*resumed)
        self._writing: threading.Thread | None = None
        self._failure: BaseException | None = None

    def save(self, contents: dict[str, Any], step: int, best: bool) -> None:
        """Makes `contents` the run's newest state, and its best if so told.

        In the background it returns once a copy of every tensor is made, and at once writes the copy; the training
        waits only where the file before it is still being written.

        Raises:
            MachineError: this file or, in the background, the one before it could not be written. What was there is
                intact.
        """
        self.finish()
        before = self._last_step
        earlier = [*self._kept, *([] if before in (None, step) else [before])]
        kept = earlier[max(len(earlier) - self.options.keep_last + 1, 0) :]
        # With those about to be deleted: after a crash before that, the run that goes on deletes them.
        contents = {**contents, "kept": earlier}
        job = (before if before in kept else None, [number for number in earlier if number not in kept], best)
        if not self.options.async_:
            self._write(contents, *job)
        else:
            self._writing = threading.Thread(
                target=self._write_in_background, args=(_copied(contents), *job), name="checkpoint", daemon=True
            )
            self._writing.start()
        # A write that fails in the background is raised before anything else is saved.
        self._kept, self._last_step = kept, step

    def finish(self) -> None:
        """Waits for what is being written in the background. Raises MachineError where that failed."""
        if self._writing is not None:
            self._writing.join()
            self._writing = None
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure

    def _write_in_background(self, *arguments: Any) -> None:
        try:
            self._write(*arguments)
        except BaseException as error:  # raised in the training thread, by `finish`
            self._failure = error

    def _take_up(self, step: int, kept: Sequence[int]) -> None:
        """After a fall back `last.pt` is damaged, and must not take the place of the file that was sound."""
        self._kept = list(kept)
        try:
            self._last_step = checkpoint.load(self.directory.last)["state"]["step"]
        except CheckpointError:
            if self.directory.step(step).is_file() and step not in self._kept:
                self._kept.append(step)

    def _write(self, contents: dict[str, Any], before: int | None, superseded: Sequence[int], best: bool) -> None:
        """best.pt first: a `last.pt` that says where the best was reached must find it there."""
        last = self.directory.last
        with checkpoint.state_beside(contents, last) as temporary:
            if best:
                _duplicate(temporary, self.directory.best)
            if before is not None and last.is_file():
                _duplicate(last, self.directory.step(before))
            rename(temporary, last)
        for step in superseded:
            self.directory.step(step).unlink(missing_ok=True)


def newest_sound(directory: RunDirectory) -> tuple[Path, dict[str, Any]]:
    """The newest checkpoint of a run that can be read, and its contents.

    Damaged files are passed over with one warning.

    Raises:
        CheckpointError: there is none.
    """
    damaged: list[CheckpointError] = []
    for path in candidates(directory):
        try:
            contents = checkpoint.load(path)
        except CheckpointError as error:
            damaged.append(error)
            continue
        if damaged:
            log.warning(
                "%s; going on from %s, of step %s", damaged[0], path.name, contents.get("state", {}).get("step")
            )
        return path, contents
    if damaged:
        raise damaged[0]
    raise CheckpointError(f"{directory.path}: holds no checkpoint")


def candidates(directory: RunDirectory) -> list[Path]:
    """The checkpoints of a run, most recent first; of `best.pt` no one knows, so it is the last."""
    steps = {
        int(match[1]): path
        for path in directory.checkpoints.glob("step_*.pt")
        if (match := re.fullmatch(r"step_(\d+)\.pt", path.name))
    }
    paths = [directory.last, *(steps[step] for step in sorted(steps, reverse=True)), directory.best]
    return [path for path in paths if path.is_file()]


def _duplicate(source: Path, target: Path) -> None:
    """`target` becomes another name of the file `source`, or its copy where the disk knows no second names."""
    temporary = hidden(target)
    temporary.unlink(missing_ok=True)
    try:
        try:
            os.link(source, temporary)
        except OSError:
            with open(source, "rb") as old, open(temporary, "wb") as new:
                shutil.copyfileobj(old, new)
                new.flush()
                os.fsync(new.fileno())
        os.replace(temporary, target)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _copied(value: Any) -> Any:
    """`value` with every tensor copied to the CPU, so that training may go on changing the originals."""
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {key: _copied(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_copied(item) for item in value)
    return value
