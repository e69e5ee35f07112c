"""How each process of a run ended, and what that makes of the run."""

import signal
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from segtrain.distributed.interrupt import SIGNALS
from segtrain.distributed.world import LostRankError
from segtrain.errors import MachineError, SegtrainError, Stopped, one_line

Kind = Literal["done", "stopped", "lost", "failed", "bug", "died", "ended"]


@dataclass(frozen=True)
class Outcome:
    """How one process ended.

    Attributes:
        rank: which.
        kind: `done` | `stopped` by a signal, after saving | `lost` another rank | `failed` by a mistake of the user's
            or the machine's | `bug` | `died` without a word | `ended` by the launcher, because another did not go on.
        code: the exit code of what failed, the signal that stopped it, or how the process died: an exit code, or
            minus a signal.
        text: the message.
        trace: the traceback.
    """

    rank: int
    kind: Kind
    code: int = 0
    text: str = ""
    trace: str = ""

    @classmethod
    def of(cls, rank: int, error: BaseException | None) -> "Outcome":
        """The outcome of a process whose work raised `error`, or nothing."""
        if error is None:
            return cls(rank, "done")
        trace = "".join(traceback.format_exception(error))
        if isinstance(error, Stopped):
            return cls(rank, "stopped", error.number, str(error), trace)
        if isinstance(error, KeyboardInterrupt):
            return cls(rank, "stopped", signal.SIGINT, "interrupted", trace)
        if isinstance(error, LostRankError):
            return cls(rank, "lost", error.exit_code, str(error), trace)
        if isinstance(error, SegtrainError):
            return cls(rank, "failed", error.exit_code, str(error), trace)
        return cls(rank, "bug", 1, f"{type(error).__name__}: {one_line(error)}", trace)


class RankError(SegtrainError):
    """What ended one process and with it the run; its exit code is that of the error there."""

    def __init__(self, text: str, code: int, trace: str = "") -> None:
        super().__init__(text)
        self.exit_code = code
        if trace:
            self.add_note(trace)


def verdict(outcomes: Sequence[Outcome], told: int | None) -> BaseException | None:
    """What the run ends with; None where every process is done.

    Args:
        outcomes: in the order in which they happened, one for each process.
        told: the signal that was passed on to all processes, if one was.
    """
    if all(outcome.kind == "done" for outcome in outcomes):
        return None
    for outcome in outcomes:
        if outcome.kind in ("failed", "bug"):
            return _failure(outcome, outcomes)
        if outcome.kind == "stopped":
            return Stopped(told or outcome.code)
        if outcome.kind == "died":
            if -outcome.code in SIGNALS:
                return Stopped(told or -outcome.code)
            return MachineError(_death(outcome))
    if told is not None:
        return Stopped(told)
    lost = next((outcome.text for outcome in outcomes if outcome.kind == "lost"), "its processes were ended")
    silent = [str(outcome.rank) for outcome in outcomes if outcome.kind == "ended"]
    return MachineError(f"rank {', '.join(silent)} gave no answer and was ended: {lost}" if silent else lost)


def _failure(outcome: Outcome, outcomes: Sequence[Outcome]) -> Exception:
    if outcome.kind == "bug":
        error = RuntimeError(f"rank {outcome.rank}: {outcome.text}")
        error.add_note(f"In rank {outcome.rank}:\n{outcome.trace}")
        return error
    # What all of them say is no matter of one rank.
    alike = all((other.kind, other.text) == (outcome.kind, outcome.text) for other in outcomes)
    text = outcome.text if alike else f"rank {outcome.rank}: {outcome.text}"
    return RankError(text, outcome.code, f"In rank {outcome.rank}:\n{outcome.trace}")


def _death(outcome: Outcome) -> str:
    if outcome.code >= 0:
        return (
            f"rank {outcome.rank} ended with exit code {outcome.code} before it could say why; lines above may. "
            "The other ranks were ended too"
        )
    name = signal.Signals(-outcome.code).name
    why = " (out of memory? the system kills so)" if name == "SIGKILL" else ""
    return (
        f"rank {outcome.rank} was ended by {name}{why}; the other ranks were ended too. "
        "Go on from the newest checkpoint with resume=RUN_DIR"
    )
