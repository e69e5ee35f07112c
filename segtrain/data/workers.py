"""Batches out of worker processes, and what becomes of a run whose workers die or hang: one line with the sample."""

import atexit
import contextlib
import math
import multiprocessing
import multiprocessing.connection
import signal
import threading
import time
from collections.abc import Callable, Generator, Iterator

import cv2
import torch
from torch.utils.data import DataLoader

from segtrain.data.board import Board, Reading
from segtrain.data.fetching import Fetched
from segtrain.data.machine import shared_memory_is_short, shortage
from segtrain.errors import MachineError

# Seconds. How often a wait for a batch looks whether the workers still live: what `DataLoader` is given as timeout.
POLL = 0.25
# Seconds that workers have to finish what they are reading when nobody wants it any more.
_GRACE = 2.0

# By which a process ends itself.
_CRASHES = (signal.SIGSEGV, signal.SIGABRT, signal.SIGFPE, signal.SIGILL)


def start_worker(board: Board, worker: int) -> None:
    """One thread a worker, and no part in the training process's signals: it decides when the workers end.

    A scheduler or a terminal signals all processes of a run; the batches of its last step must still arrive.
    """
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    for name in ("SIGINT", "SIGTERM", "SIGUSR1"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    board.register(worker)


class Workers:
    """The worker processes of one pass over a `DataLoader`; `close` ends them.

    That a worker died is only ever said by `next`: between two batches is where a run can be saved. torch's own
    way, a RuntimeError wherever the training happens to be, could leave an optimizer's step half done.

    Args:
        loader: with workers, and `POLL` or less as its timeout.
        board: that the workers write on.
        describe: index -> what a message calls a sample.
        timeout: seconds that `next` may take, 0: for ever.

    Raises:
        MachineError: there is no room for the processes or for their shared memory.
    """

    def __init__(self, loader: DataLoader, board: Board, describe: Callable[[int], str], timeout: float) -> None:
        self._board = board
        self._describe = describe
        self._timeout = timeout
        self._killed = False
        others = set(multiprocessing.active_children())
        try:
            with _own_handler_of_dead_children():
                self._batches: Iterator[Fetched] | None = iter(loader)
        except (OSError, RuntimeError) as error:
            if "DataLoader worker" in str(error):
                raise MachineError("a loader worker died before it read a sample; data.workers=0 shows why") from None
            raise shortage(error) or error from None
        self._processes = [process for process in multiprocessing.active_children() if process not in others]
        # Before multiprocessing's own, which waits for ever for a process that ignores SIGTERM.
        atexit.register(self._kill)

    def next(self) -> Fetched | None:
        """The next batch, None after the last.

        Raises:
            MachineError: a worker is dead, none has sent the batch in time, or memory to send it in is short.
        """
        assert self._batches is not None
        deadline = time.monotonic() + (self._timeout or math.inf)
        while True:
            problem = self._death()
            if problem is None:
                try:
                    return next(self._batches, None)
                except (RuntimeError, OSError, EOFError) as error:
                    # Raised below, outside of this clause: `error` holds on to the iterator and its processes.
                    problem, understood = self._problem(error, deadline)
                    if not understood:
                        raise
            if problem is not None:
                self._kill()
                raise MachineError(problem)

    def _problem(self, error: Exception, deadline: float) -> tuple[str | None, bool]:
        """What to tell the user, None if nothing yet; and whether the exception is understood at all."""
        if "DataLoader timed out" in str(error):
            return self._death() or (self._hang() if time.monotonic() >= deadline else None), True
        # What a dead worker had sent cannot be opened any more; that it is dead may show a little later.
        ended = multiprocessing.connection.wait([process.sentinel for process in self._processes], timeout=_GRACE)
        for process in self._processes:
            if process.sentinel in ended:
                process.join()
        problem = self._death() or shortage(error)
        if problem is None and isinstance(error, (EOFError, ConnectionError)):
            problem = f"the connection to a loader worker was lost ({type(error).__name__}); data.workers=0 needs none"
        return (None, False) if problem is None else (str(problem), True)

    def _death(self) -> str | None:
        dead = [process for process in self._processes if process.exitcode is not None]
        if not dead:
            return None
        # One that was killed says more than one that ended because of it.
        process = min(dead, key=lambda process: process.exitcode or 0)
        code = process.exitcode or 0
        reading = next((reading for reading in self._board.readings() if reading.pid == process.pid), None)
        where = self._where(reading)
        if code >= 0:
            return f"a loader worker ended with exit code {code} {where}; data.workers=0 shows why"
        name = signal.Signals(-code).name if -code in [*signal.Signals] else f"signal {-code}"
        if code == -signal.SIGBUS:
            return f"a loader worker was killed ({name}) {where}; {shared_memory_is_short()}"
        if -code in _CRASHES:
            return f"a loader worker crashed ({name}) {where}; is that sample's file damaged? data.workers=0 shows more"
        return (
            f"a loader worker was killed ({name}) {where}; if the system ran out of memory (dmesg says so), lower "
            "data.workers or data.batch_size"
        )

    def _hang(self) -> str:
        busy = [reading for reading in self._board.readings() if reading.busy]
        begun = f"no batch arrived from the loader's workers within data.timeout={self._timeout:g} s"
        if not busy:
            return f"{begun}, and none is reading a sample; set data.workers=0, or raise data.timeout"
        longest = min(busy, key=lambda reading: reading.since)
        seconds = (time.monotonic_ns() - longest.since) / 1e9
        return (
            f"{begun}; one has been reading sample {self._describe(longest.item)} for {seconds:.1f} s; check its files "
            "and their disk, or raise data.timeout if that is normal"
        )

    def _where(self, reading: Reading | None) -> str:
        if reading is None or not reading.since:
            return "before it read a sample"
        return f"{'while it read' if reading.busy else 'after it had read'} sample {self._describe(reading.item)}"

    def close(self, patiently: bool) -> None:
        """Ends the processes: at once, or after they have had a moment to finish what they are reading.

        torch alone would wait five seconds for each one that hangs.
        """
        if not patiently:
            self._kill()
        # At the interpreter's exit they are killed already, and no thread can be started any more.
        timer = None if self._killed else threading.Timer(_GRACE, self._kill)
        if timer is not None:
            timer.start()
        try:
            self._batches = None  # its last reference: tells the workers to end, and waits for them
        finally:
            if timer is not None:
                timer.cancel()
                timer.join()
            self._kill()  # those that did not hear of it, because someone still holds the iterator
            atexit.unregister(self._kill)

    def _kill(self) -> None:
        self._killed = True
        for process in self._processes:
            with contextlib.suppress(ValueError):  # closed already
                process.kill()


def receive(loader: DataLoader, board: Board, describe: Callable[[int], str], timeout: float) -> Generator[Fetched]:
    """What `loader` yields, with its workers (see `Workers`), if it has any, looked after."""
    if loader.num_workers == 0:
        yield from loader
        return
    workers = Workers(loader, board, describe, timeout)
    patiently = False
    try:
        while True:
            fetched = workers.next()
            if fetched is None:
                patiently = True
                return
            yield fetched
    except GeneratorExit:
        patiently = True
        raise
    finally:
        workers.close(patiently)


@contextlib.contextmanager
def _own_handler_of_dead_children() -> Iterator[None]:
    """Restores the handler of SIGCHLD, for which torch puts in its own, see `Workers`."""
    if not hasattr(signal, "SIGCHLD") or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGCHLD)
    try:
        yield
    finally:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL if before is None else before)
