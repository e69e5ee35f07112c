"""Starts the processes of one run on this machine and sees to it that they end together, with the reason known.

torch's elastic launcher starts them and ends the others when one dies. It runs in a thread of its own: in the main
thread it would answer Ctrl-C and SIGTERM itself, and not by letting the run save. Each process tells how it ended
through a pipe instead of failing, because the launcher would make exit code 1 of any failure.
"""

import contextlib
import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import torch
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from segtrain.distributed.interrupt import SIGNALS, Interrupt, end_at_once
from segtrain.distributed.outcome import Outcome, verdict
from segtrain.distributed.world import still_joined
from segtrain.errors import MachineError, one_line

GRACE = 10.0  # seconds that the others have to end by themselves after one has failed
LOOK_EVERY = 0.05  # seconds; less than the elastic launcher's, so that a death is seen before it is cleared away
ELASTIC_LOOKS_EVERY = 0.5


def launch(count: int, task: Callable[..., None], *args: Any) -> None:
    """Runs `task(*args)` in `count` new processes; each finds its place in the environment (`place_in`).

    The first Ctrl-C, SIGTERM or SIGUSR1 is passed on to all of them, a second one ends them at once.

    Args:
        count: number of processes.
        task: a function of a module, which can be sent to a new process.
        args: can be pickled.

    Raises:
        Stopped: a signal ended the run, here or in one of the processes.
        MachineError: a process died or did not answer; the message names its rank.
        RankError: what went wrong in a process, with its exit code.
        RuntimeError: a bug, with the traceback from the process as a note.
    """
    context = multiprocessing.get_context("spawn")
    pipes = [context.Pipe(duplex=False) for _ in range(count)]
    ranks = [_Rank(number, reader) for number, (reader, _) in enumerate(pipes)]
    writers = [writer for _, writer in pipes]
    with (
        TemporaryDirectory(prefix="segtrain-", ignore_cleanup_errors=True) as folder,
        Interrupt() as interrupt,
        _quiet_launcher(),
    ):
        elastic = _Elastic(count, Path(folder), task, args, writers)
        elastic.start()
        try:
            _watch(ranks, elastic, interrupt)
        finally:
            for rank in ranks:
                rank.kill()
            elastic.join(GRACE)
            for end in (*writers, *(rank.report for rank in ranks)):
                end.close()
    outcomes = [rank.outcome for rank in ranks if rank.outcome is not None]
    if len(outcomes) < count and elastic.failure is not None:
        raise MachineError(f"the processes of the run cannot be started: {one_line(elastic.failure)}")
    outcomes.sort(key=lambda outcome: ranks[outcome.rank].ended)
    error = verdict(outcomes, interrupt.signal)
    if error is not None:
        raise error


def _watch(ranks: list["_Rank"], elastic: "_Elastic", interrupt: Interrupt) -> None:
    """Returns when all have ended. Passes a signal on, and ends those who do not go on when another has failed."""
    patience: float | None = None
    while elastic.is_alive():
        elastic.join(LOOK_EVERY)
        for rank in ranks:
            rank.look(elastic.exit_codes)
            if interrupt.signal is not None:
                rank.tell(interrupt.signal)
        if patience is None and any(rank.outcome and rank.outcome.kind != "done" for rank in ranks):
            patience = time.monotonic() + GRACE
        if patience is not None and time.monotonic() > patience:
            for rank in ranks:
                rank.kill()
    for rank in ranks:
        rank.look(elastic.exit_codes)


class _Rank:
    """What the launcher knows of one process.

    Attributes:
        report: what the process sends: first its process id, at last its `Outcome`.
        outcome: None while it runs.
        ended: when, for the order among the outcomes.
    """

    def __init__(self, number: int, report: Connection) -> None:
        self.number = number
        self.report = report
        self.outcome: Outcome | None = None
        self.ended = 0.0
        self._pid: int | None = None
        self._told = False

    def look(self, exit_codes: dict[int, int]) -> None:
        """Takes in what it reported, or how it died."""
        while self.outcome is None and self.report.poll():
            try:
                message = self.report.recv()
            except EOFError:
                break
            if isinstance(message, Outcome):
                self._end(message)
            else:
                self._pid = message
        if self.outcome is None:
            code = self._exit_code()
            code = exit_codes.get(self.number) if code is None else code
            if code is not None and not self.report.poll():
                self._end(Outcome(self.number, "died", code))

    def tell(self, number: int) -> None:
        """Passes a signal on, once."""
        if self._pid is not None and self.outcome is None and not self._told:
            self._told = True
            os.kill(self._pid, number)

    def kill(self) -> None:
        """Ends it at once if it still runs."""
        if self._pid is None:
            return
        if self.outcome is None:
            self._end(Outcome(self.number, "ended"))
        if self._state() == "runs":
            os.kill(self._pid, signal.SIGKILL)

    def _end(self, outcome: Outcome) -> None:
        self.outcome = outcome
        self.ended = time.monotonic()

    def _exit_code(self) -> int | None:
        """As `subprocess` has it, minus the signal that killed it; None while it runs, or where it cannot be seen."""
        state = self._state()
        return state if isinstance(state, int) else None

    def _state(self) -> int | Literal["runs", "gone"]:
        """Looks without taking notice of the death away from the elastic launcher, which waits for it."""
        if self._pid is None:
            return "runs"
        try:
            state = os.waitid(os.P_PID, self._pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return "gone"  # the elastic launcher took notice; the process id may be another process's by now
        if state is None:
            return "runs"
        return state.si_status if state.si_code == os.CLD_EXITED else -state.si_status


class _Elastic(threading.Thread):
    """Runs torch's elastic launcher to its end.

    Attributes:
        exit_codes: of the process whose death it saw first, by rank.
        failure: what it failed with itself.
    """

    def __init__(
        self, count: int, folder: Path, task: Callable[..., None], args: tuple[Any, ...], writers: list[Connection]
    ) -> None:
        super().__init__(name="elastic", daemon=True)
        self.exit_codes: dict[int, int] = {}
        self.failure: BaseException | None = None
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=count,
            run_id=uuid.uuid4().hex,
            rdzv_backend="c10d",
            rdzv_endpoint="localhost:0",
            local_addr="localhost",
            max_restarts=0,
            monitor_interval=ELASTIC_LOOKS_EVERY,
            logs_specs=DefaultLogsSpecs(log_dir=str(folder)),
        )
        self._launch = elastic_launch(config, _rank_process)
        self._args = (task, args, writers, os.getpid())

    def run(self) -> None:
        # The processes inherit the mask, so that a signal that comes while they start waits until they can answer it.
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        try:
            self._launch(*self._args)
        except ChildFailedError as error:
            self.exit_codes = {rank: failure.exitcode for rank, failure in error.failures.items()}
        except Exception as error:
            self.failure = error


@contextlib.contextmanager
def _quiet_launcher() -> Iterator[None]:
    """What the elastic launcher logs of a failure is pages of its own matters; the one line is segtrain's."""
    loggers = [logging.getLogger(f"torch.distributed.{part}") for part in ("elastic", "launcher")]
    silent = logging.NullHandler()
    propagated = [logger.propagate for logger in loggers]
    for logger in loggers:
        logger.addHandler(silent)
        logger.propagate = False
    try:
        yield
    finally:
        for logger, value in zip(loggers, propagated, strict=True):
            logger.removeHandler(silent)
            logger.propagate = value


def _rank_process(task: Callable[..., None], args: tuple[Any, ...], writers: list[Connection], launcher: int) -> None:
    """What runs in each process. It returns however the task ended; a failure would have the elastic launcher end the
    others before they have cleared up."""
    rank = int(os.environ["LOCAL_RANK"])
    report = writers[rank]
    report.send(os.getpid())
    _die_with(launcher)
    os.setsid()  # Ctrl-C goes to every process of the terminal's group; the launcher alone shall hear it
    for number in SIGNALS:
        signal.signal(number, end_at_once)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, torch.get_num_threads() // len(writers)))
    error: BaseException | None = None
    try:
        task(*args)
    except BaseException as caught:
        error = caught
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    report.send(Outcome.of(rank, error))
    if still_joined():
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(1)  # at once: what a failure left behind waits for another process
    for number in SIGNALS:
        signal.signal(number, signal.SIG_DFL)


def _die_with(launcher: int) -> None:
    """This process ends when the launcher does, even by SIGKILL: it must not go on writing into a run nobody minds."""
    if sys.platform == "linux":
        import ctypes

        parent_death_signal = 1  # PR_SET_PDEATHSIG of <linux/prctl.h>
        ctypes.CDLL(None).prctl(parent_death_signal, signal.SIGKILL)
    else:
        threading.Thread(target=_watch_parent, args=(launcher,), daemon=True).start()
    if os.getppid() != launcher:
        os._exit(1)


def _watch_parent(launcher: int) -> None:
    while os.getppid() == launcher:
        time.sleep(0.5)
    os.kill(os.getpid(), signal.SIGKILL)
