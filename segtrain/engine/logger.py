"""What a run writes down: `train.log`, `metrics.jsonl` and TensorBoard events."""

import contextlib
import json
import logging
import math
import os
from collections.abc import Iterator, Mapping
from logging.handlers import MemoryHandler
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.tensorboard import SummaryWriter

from segtrain.engine.progress import TerminalHandler
from segtrain.engine.run_directory import RunDirectory, write_text

log = logging.getLogger("segtrain")


class RunLogger:
    """Writes scalars and pictures of one run.

    Args:
        directory: where to.
        resumed_step: what was logged after this step by the process that is being resumed is dropped, so that no step
            appears twice. None for a new run.
        evaluated: whether that step's evaluation is in the state that is resumed; otherwise it comes once more, and
            what was logged of it is dropped too.
    """

    def __init__(self, directory: RunDirectory, resumed_step: int | None, evaluated: bool = True) -> None:
        records = [] if resumed_step is None else _records(directory.metrics)
        last = [record for record in records if record["step"] == resumed_step and record["kind"] == "train"]
        if resumed_step is not None:
            kept = [record for record in records if record["step"] < resumed_step + evaluated]
            lines = [json.dumps(record) + "\n" for record in (*kept, *([] if evaluated else last))]
            write_text(directory.metrics, "".join(lines))
        self._lines = open(directory.metrics, "a", encoding="utf-8")  # noqa: SIM115 - closed by close()
        purged = None if resumed_step is None else resumed_step + evaluated
        self._events = SummaryWriter(str(directory.tensorboard), purge_step=purged)
        for record in [] if evaluated else last:
            self._add_events("train", record["step"], {k: v for k, v in record.items() if k not in ("kind", "step")})

    def scalars(self, kind: str, step: int, values: Mapping[str, float | None]) -> None:
        """Logs `values` of one step as a line of `metrics.jsonl` and as TensorBoard scalars `<kind>/<name>`.

        None (an absent class) and non-finite numbers become null in the file and are left out of TensorBoard.
        """
        plain = {name: _finite(value) for name, value in values.items()}
        self._lines.write(json.dumps({"kind": kind, "step": step, **plain}) + "\n")
        self._lines.flush()
        self._add_events(kind, step, plain)

    def _add_events(self, kind: str, step: int, values: Mapping[str, float | None]) -> None:
        for name, value in values.items():
            if value is not None:
                self._events.add_scalar(f"{kind}/{name}", value, step)

    def picture(self, name: str, step: int, image: NDArray[np.uint8]) -> None:
        """Adds an [H, W, 3] uint8 picture to TensorBoard."""
        self._events.add_image(name, image, step, dataformats="HWC")

    def sync(self) -> None:
        """Puts everything logged on the disk: no checkpoint may know of more than the log does."""
        os.fsync(self._lines.fileno())
        self._events.flush()

    def close(self) -> None:
        self._lines.close()
        self._events.close()


class NoLogger(RunLogger):
    """What stands for a `RunLogger` in a process that does not own the run directory: it writes nothing."""

    def __init__(self) -> None:
        pass

    def scalars(self, kind: str, step: int, values: Mapping[str, float | None]) -> None:
        pass

    def picture(self, name: str, step: int, image: NDArray[np.uint8]) -> None:
        pass

    def sync(self) -> None:
        pass

    def close(self) -> None:
        pass


def log_to_terminal(rank: int = 0) -> None:
    """Sends the log to standard error; what comes before `attach_file` is remembered for the file.

    Of a process other than the main one only warnings appear, under its rank.
    """
    close_log()
    log.setLevel(logging.WARNING if rank else logging.INFO)
    log.propagate = False
    terminal = TerminalHandler()
    terminal.setFormatter(logging.Formatter(f"rank {rank}: %(message)s" if rank else "%(message)s"))
    log.addHandler(terminal)
    log.addHandler(MemoryHandler(capacity=10_000, flushLevel=logging.CRITICAL, flushOnClose=False))


@contextlib.contextmanager
def logged_to_terminal() -> Iterator[None]:
    """The log of a command that writes no run: on the terminal for this long."""
    log_to_terminal()
    try:
        yield
    finally:
        close_log()


def attach_file(path: Path, rank: int = 0) -> None:
    """Sends the log to the end of the file `path` as well, beginning with what was said so far."""
    file = logging.FileHandler(path, encoding="utf-8")
    who = f"rank {rank}: " if rank else ""
    file.setFormatter(logging.Formatter(f"%(asctime)s %(levelname)-7s {who}%(message)s", "%Y-%m-%d %H:%M:%S"))
    for handler in [handler for handler in log.handlers if isinstance(handler, MemoryHandler)]:
        handler.setTarget(file)
        handler.flush()
        log.removeHandler(handler)
        handler.close()
    log.addHandler(file)


def log_failure(error: BaseException) -> None:
    """Writes into the log file alone what ended the run; on the terminal the command line says it."""
    record = log.makeRecord(log.name, logging.ERROR, "", 0, "%s: %s", (type(error).__name__, error), None)
    for handler in log.handlers:
        if isinstance(handler, logging.FileHandler):
            handler.emit(record)


def close_log() -> None:
    """Takes the log's handlers away and closes its file."""
    for handler in list(log.handlers):
        log.removeHandler(handler)
        handler.close()


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _records(path: Path) -> list[dict[str, Any]]:
    """The lines of a `metrics.jsonl`, without a last one that a crash cut off."""
    records = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        with contextlib.suppress(json.JSONDecodeError):
            records.append(json.loads(line))
    return records
