"""What can go wrong on the user's side, each with the exit code it ends in.

A `SegtrainError` is printed as one line, `segtrain: error: <message>`, without a traceback (`debug=true` shows it).
The message names the file or config key, the offending value, and what to do.
"""

import difflib
import signal
from collections.abc import Iterable
from typing import Any


class SegtrainError(Exception):
    """Base of everything a user can mend. `exit_code` is what the command line ends with."""

    exit_code = 2


class ConfigError(SegtrainError):
    """A config key, group or value is wrong."""


class DataError(SegtrainError):
    """A data set, an image or a mask is missing, unreadable or inconsistent."""


class CheckpointError(SegtrainError):
    """A checkpoint is missing, damaged, or belongs to something else."""


class NonFiniteError(SegtrainError):
    """The loss or a gradient is no longer a number."""

    exit_code = 4


class MachineError(SegtrainError):
    """The machine lacks what the run needs: room on a disk, say."""

    exit_code = 3


class Stopped(KeyboardInterrupt):
    """A signal ended the run. Exit code 130 for Ctrl-C, else 143: a scheduler sees that the run was told to end."""

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.number = number
        self.exit_code = 130 if number == signal.SIGINT else 143


def nearest(word: str, known: Iterable[str]) -> str:
    """`"; did you mean 'x'?"` for the known word most like `word`, or `""` where none is close."""
    spelt = {name.lower(): name for name in known}
    matches = difflib.get_close_matches(word.lower(), spelt, n=1, cutoff=0.55)
    return f"; did you mean {spelt[matches[0]]!r}?" if matches else ""


def one_line(error: BaseException) -> str:
    """A message without line ends; of a pydantic error, which albumentations wraps, its argument and reason."""
    cause: Any = error.__cause__
    if hasattr(cause, "errors"):
        first = cause.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        return f"{where}={first['input']}: {first['msg']}"
    return " ".join(str(error).split())
