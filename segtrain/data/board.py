"""What each worker process is reading, where the training process can see it when the worker no longer answers."""

import multiprocessing
import os
import time
from typing import NamedTuple

_FIELDS = 4  # as in Reading, the flag as 0 or 1


class Reading(NamedTuple):
    """Of one worker.

    Attributes:
        pid: of its process, 0 before it has begun.
        since: when it began with its newest sample, in nanoseconds of `time.monotonic_ns`; 0: it has read none.
        item: index of that sample.
        busy: whether the batch with that sample is still being made.
    """

    pid: int
    since: int
    item: int
    busy: bool


class Board:
    """One `Reading` a worker, in shared memory that outlives the worker.

    Args:
        workers: their number.
    """

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self._cells = multiprocessing.RawArray("q", max(workers, 1) * _FIELDS)  # zeros

    def register(self, worker: int) -> None:
        """Called by the worker once, before it reads."""
        self._cells[worker * _FIELDS] = os.getpid()

    def begin(self, worker: int, item: int) -> None:
        """Called by the worker before it reads a sample."""
        first = worker * _FIELDS
        self._cells[first + 1 : first + 4] = [time.monotonic_ns(), item, 1]

    def rest(self, worker: int) -> None:
        """Called by the worker when its batch is made."""
        self._cells[worker * _FIELDS + 3] = 0

    def readings(self) -> list[Reading]:
        """By worker."""
        rows = [self._cells[i * _FIELDS : (i + 1) * _FIELDS] for i in range(self.workers)]
        return [Reading(pid, since, item, bool(busy)) for pid, since, item, busy in rows]
