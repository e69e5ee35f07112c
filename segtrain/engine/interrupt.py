"""Ctrl-C: finish the step, save, say how to go on."""

import logging
import signal
import threading
from types import FrameType, TracebackType

log = logging.getLogger("segtrain")


class Interrupt:
    """While entered, the first Ctrl-C only sets `requested`; the second raises KeyboardInterrupt as usual.

    The handler does nothing but set a flag: whatever it interrupts may hold locks.
    Outside the main thread, where Python allows no signal handlers, `requested` stays False.
    """

    def __init__(self) -> None:
        self.requested = False
        self._previous: signal._HANDLER = None

    def __enter__(self) -> "Interrupt":
        if threading.current_thread() is threading.main_thread():
            self._previous = signal.signal(signal.SIGINT, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, self._previous)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
