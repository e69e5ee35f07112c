"""Ctrl-C and the signals of schedulers: finish the step, save, say how to go on."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType, TracebackType

from segtrain.errors import Stopped

# Ctrl-C; a scheduler's or container's request to end; Slurm's and spot machines' warning before the end.
SIGNALS = (signal.SIGINT, signal.SIGTERM, *([signal.SIGUSR1] if hasattr(signal, "SIGUSR1") else []))


@contextlib.contextmanager
def ended_by_signals() -> Iterator[None]:
    """While nothing is trained yet, or any more, one of `SIGNALS` ends the process with the exit code it has then too.

    By themselves SIGTERM and SIGUSR1 would end it without a word and with a code of the system's.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = {number: signal.signal(number, end_at_once) for number in SIGNALS if number != signal.SIGINT}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def end_at_once(number: int, frame: FrameType | None) -> None:
    """A handler."""
    raise Stopped(number)


class Interrupt:
    """While entered, the first of `SIGNALS` only sets `signal`; a second one ends the process at once.

    The handler does nothing but set it: whatever it interrupts may hold locks.
    Outside the main thread, where Python allows no signal handlers, `requested` stays False.

    Args:
        alone: False where other processes belong to the run. Then a second signal does nothing: one request may arrive
            twice, from who made it and from who started the processes, and that one ends them on a second request.

    Attributes:
        signal: which came, None before one does.
    """

    def __init__(self, alone: bool = True) -> None:
        self.alone = alone
        self.signal: int | None = None
        self._previous: dict[int, signal._HANDLER] = {}

    @property
    def requested(self) -> bool:
        return self.signal is not None

    def __enter__(self) -> "Interrupt":
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._handle) for number in SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested and self.alone:
            raise Stopped(number)
        self.signal = self.signal or number
