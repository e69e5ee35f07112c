"""How long work shows itself: one moving line in a terminal, plain lines elsewhere."""

import logging
import math
import sys
import time
from types import TracebackType

from tqdm import tqdm

log = logging.getLogger("segtrain")


class Progress:
    """A bar over `total` units of work.

    In a terminal it is a tqdm line. Where standard error is no terminal (a file, a cluster's log), `line_every` units
    a plain line is logged instead, or none at all where that is None.

    Args:
        name: what is being done.
        total: units in all; None where nobody knows.
        initial: units done before, by an earlier part of the same run.
        unit: name of one unit.
        line_every: units between two plain lines.
        transient: remove the bar when done.
        silent: show nothing at all, in a process that is not the run's main one.
        pace: say in the plain lines too how many units a second took, as the bar does.
    """

    def __init__(
        self,
        name: str,
        total: int | None,
        *,
        initial: int = 0,
        unit: str,
        line_every: int | None,
        transient: bool = False,
        silent: bool = False,
        pace: bool = False,
    ) -> None:
        self._name = name
        self._total = total
        self._initial = initial
        self._done = initial
        self._unit = unit
        self._pace = pace
        self._line_every = None if silent else line_every
        self._started = time.perf_counter()
        self._values = ""
        self._terminal = sys.stderr.isatty()
        self._bar = tqdm(
            total=total, initial=initial, desc=name, unit=unit, disable=silent or not self._terminal,
            leave=not transient, dynamic_ncols=True,
        )  # fmt: skip

    def show(self, values: str) -> None:
        """Sets the text behind the bar."""
        self._values = values
        self._bar.set_postfix_str(values, refresh=False)

    def advance(self, units: int = 1) -> None:
        """Says that `units` more are done."""
        before = self._done
        self._done += units
        self._bar.update(units)
        if self._terminal or self._line_every is None:
            return
        if self._done // self._line_every > before // self._line_every or self._done == self._total:
            of = "" if self._total is None else f"/{self._total}"
            values = f"  {self._values}" if self._values else ""
            pace = f"  {1 / max(self._seconds_each(), 1e-9):.3g} {self._unit}/s" if self._pace else ""
            left = "" if self._total is None else f"  left {format_seconds(self.seconds_left())}"
            log.info("%s %s %d%s%s%s%s", self._name, self._unit, self._done, of, values, pace, left)

    def seconds_left(self) -> float:
        """Estimated from the mean pace since this bar was made; infinite where the total is not known."""
        left = math.inf if self._total is None else max(self._total - self._done, 0)
        return self._seconds_each() * left

    def _seconds_each(self) -> float:
        return (time.perf_counter() - self._started) / max(self._done - self._initial, 1)

    def __enter__(self) -> "Progress":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()


class TerminalHandler(logging.Handler):
    """Log lines to standard error, above a bar that may be moving there."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(self.format(record), file=sys.stderr)


def format_seconds(seconds: float) -> str:
    """75.4 -> `1:15`; from one hour on `1:02:03`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
