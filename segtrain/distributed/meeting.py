"""How processes that torchrun or Slurm started learn what to do: the main one composes the config, and tells them."""

import base64
import contextlib
import datetime
import pickle
from collections.abc import Iterator
from typing import Any

import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

from segtrain.distributed.place import Place
from segtrain.errors import MachineError, one_line

SECONDS_TO_HEAR = 60.0  # that the main process stays, for the others to hear that there is nothing to do


class Meeting:
    """A store of keys and values that all processes reach before there is a process group.

    Attributes:
        store: to make the process group from.
    """

    def __init__(self, place: Place) -> None:
        self._place = place
        self._announced = False
        # torchrun's environment also says whether it holds the store itself, and which of its attempts this is.
        url = "env://" if place.started_by == "torchrun" else f"tcp://{place.address}:{place.port}"
        with self._reached():
            self.store: dist.Store = next(iter(rendezvous(url, place.rank, place.size)))[0]

    def announce(self, work: Any) -> None:
        """The main process says what is to be done: anything that can be pickled."""
        self._announced = True
        self._say((work, 0))

    def _say(self, words: tuple[Any, int]) -> None:
        self.store.set("segtrain/work", base64.b64encode(pickle.dumps(words)).decode())

    def call_off(self, code: int) -> None:
        """The main process says that there is nothing to do, unless it has announced work.

        Args:
            code: what the others end with.
        """
        if self._announced:
            return
        self._say((None, code))
        others = [f"segtrain/heard/{rank}" for rank in range(1, self._place.size)]
        with contextlib.suppress(Exception):  # it is only so that the store does not vanish before they have heard
            self.store.wait(others, datetime.timedelta(seconds=SECONDS_TO_HEAR))

    def hear(self) -> tuple[Any, int]:
        """What the main process announced; or None, and the exit code to end with.

        Raises:
            MachineError: it said nothing for half an hour, or ended.
        """
        with self._reached():
            said: tuple[Any, int] = pickle.loads(base64.b64decode(self.store.get("segtrain/work")))
            self.store.set(f"segtrain/heard/{self._place.rank}", "yes")
        return said

    @contextlib.contextmanager
    def _reached(self) -> Iterator[None]:
        place = self._place
        try:
            yield
        except (dist.DistError, ValueError, OSError) as error:
            raise MachineError(
                f"rank {place.rank} of {place.size}, started by {place.started_by}: rank 0 at {place.address} port "
                f"{place.port} cannot be reached ({one_line(error)}); did it end? Set MASTER_ADDR and MASTER_PORT to "
                "where the others can reach it"
            ) from error
