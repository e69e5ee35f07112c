"""The processes of one training: started here, or by torchrun or Slurm; each joins the others and trains with them."""

import logging
import os
import sys
from collections.abc import Callable, Sequence

from torch.distributed import Store

from segtrain import compose
from segtrain.build import Builder
from segtrain.commands.start import Start
from segtrain.compose import Job
from segtrain.distributed.meeting import Meeting
from segtrain.distributed.place import Place
from segtrain.distributed.world import World, join, still_joined
from segtrain.engine.logger import close_log, log_failure, log_to_terminal
from segtrain.engine.precision import own_device
from segtrain.errors import ConfigError
from segtrain.terminal import report_failure

log = logging.getLogger("segtrain")

Train = Callable[[Start, Sequence[str], World], None]


def run_as_rank(
    place: Place,
    argv: Sequence[str],
    run_jobs: Callable[[Sequence[str], Callable[[Job], None]], int],
    begin: Callable[[Job], Start],
    train: Train,
) -> int:
    """One of several processes that something else started. The main one composes the config and tells the others.

    Args:
        place: which of them this is.
        argv: the command line, the same in all.
        run_jobs: composes the config of `argv` and calls the function with it.
        begin: checks it, and finds what to begin with.
        train: does the work, in every process.
    """
    try:
        meeting = Meeting(place)
        if place.rank == 0:
            return _run_as_main_rank(place, meeting, argv, run_jobs, begin, train)
        start, code = meeting.hear()
        if start is not None:
            train_as_rank(place, meeting.store, start.received(), argv, train)
        return code
    except BaseException as error:
        if not still_joined():
            raise
        code = report_failure(error, argv)
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(code)


def _run_as_main_rank(
    place: Place,
    meeting: Meeting,
    argv: Sequence[str],
    run_jobs: Callable[[Sequence[str], Callable[[Job], None]], int],
    begin: Callable[[Job], Start],
    train: Train,
) -> int:
    def task(job: Job) -> None:
        log_to_terminal()
        start = begin(job)
        meeting.announce(start.handed_over())
        train_as_rank(place, meeting.store, start, argv, train)

    try:
        if compose.parse_arguments(argv).multirun:
            raise ConfigError(
                f"-m: {place.started_by} starts one run; leave -m out, or start the processes by trainer.devices"
            )
        code = run_jobs(argv, task)
    except BaseException as error:
        meeting.call_off(getattr(error, "exit_code", 1))
        raise
    meeting.call_off(code)
    return code


def train_as_rank(place: Place, store: Store | None, start: Start, command: Sequence[str], train: Train) -> None:
    """Joins the other processes, at `store` or where the environment says, and trains with them."""
    log_to_terminal(place.rank)
    try:
        options = Builder(start.config).trainer_options()
        if place.rank == 0 and options.devices not in (1, "auto", place.size, place.local_size):
            log.warning(
                "trainer.devices=%s is left aside: %s started %d processes",
                *(options.devices, place.started_by, place.size),
            )
        device = own_device(options.device, place)
        with join(place.rank, place.size, place.local_rank, device, options.timeout, store) as world:
            train(start, command, world)
    except Exception as error:
        log_failure(error)
        raise
    finally:
        close_log()
