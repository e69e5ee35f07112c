"""The processes of one run and what they say to each other: sums, flags, plain values."""

import contextlib
import datetime
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from segtrain.errors import MachineError

# What the backends write into the RuntimeError of a collective whose peer is gone or does not answer.
GLOO = ("gloo/transport", "Connection closed by peer", "Connection reset by peer", "Timed out waiting")
SECONDS_TO_LEAVE = 5.0  # after a failure: an unfinished collective would hold the process for its whole timeout


class LostRankError(MachineError):
    """Another process of the run ended or does not answer; that one knows why."""


class SharedFailureError(Exception):
    """Some process failed, and all learnt of it together: they can still do what takes all of them, such as save.

    Attributes:
        reason: what to raise after that: the failure, or in the other processes a `LostRankError`.
    """

    def __init__(self, reason: Exception) -> None:
        super().__init__(str(reason))
        self.reason = reason


@dataclass(frozen=True)
class World:
    """This process's place among those that train one model.

    All processes must call the same methods in the same order. In a world of one each returns at once what it was
    given, and there is no process group.

    Attributes:
        rank: 0 to size - 1, over all machines.
        size: number of processes.
        local_rank: 0 to the number of processes on this machine - 1; which of its GPUs is this process's own.
        device: where this process computes.
    """

    rank: int
    size: int
    local_rank: int
    device: torch.device

    @classmethod
    def solo(cls, device: torch.device) -> "World":
        """A world of one process."""
        return cls(0, 1, 0, device)

    @property
    def is_main(self) -> bool:
        """Whether this is the process that owns the run directory and the terminal."""
        return self.rank == 0

    def sum(self, tensor: Tensor) -> Tensor:
        """Sum over all processes, in the tensor's own dtype; `tensor` is left as it is.

        Args:
            tensor: of one shape and dtype in all processes, on the CPU or on `device`.
        """
        return self._reduce(tensor, dist.ReduceOp.SUM)

    def max(self, tensor: Tensor) -> Tensor:
        """Elementwise largest over all processes; see `sum`."""
        return self._reduce(tensor, dist.ReduceOp.MAX)

    def largest(self, number: int) -> int:
        """The largest of all processes' numbers, such as the signal that reached one of them."""
        return number if self.size == 1 else int(self.max(torch.tensor(number)))

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in any process."""
        return bool(self.largest(int(flag)))

    def share_failure(self, failure: Exception | None, what: str) -> None:
        """Raises if any process failed: `SharedFailureError` in all of them, or in a process alone `failure` itself.

        Args:
            failure: of this process, if it failed.
            what: that could not be done, for the message in the others.
        """
        if self.size == 1:
            if failure is not None:
                raise failure
        elif self.any(failure is not None):
            raise SharedFailureError(failure or LostRankError(f"another process of this run could not {what}"))

    def gather(self, value: Any) -> list[Any]:
        """The values of all processes in the order of their ranks, in the main process; elsewhere an empty list."""
        if self.size == 1:
            return [value]
        values = [None] * self.size if self.is_main else None
        dist.gather_object(value, values, dst=0)
        return values or []

    def broadcast(self, value: Any) -> Any:
        """The main process's value, in all."""
        if self.size == 1:
            return value
        values = [value if self.is_main else None]
        dist.broadcast_object_list(values, src=0)
        return values[0]

    @contextlib.contextmanager
    def main_first(self) -> Iterator[None]:
        """The main process goes through this first, to download what the others then find, say."""
        if not self.is_main:
            self.barrier()
        yield
        if self.is_main:
            self.barrier()

    def barrier(self) -> None:
        """Returns when all processes have called it."""
        self.largest(0)  # not dist.barrier, which waits for the GPU's queue too

    def _reduce(self, tensor: Tensor, operation: dist.ReduceOp.RedOpType) -> Tensor:
        if self.size == 1:
            return tensor
        reduced = tensor.detach().clone(memory_format=torch.contiguous_format)
        dist.all_reduce(reduced, operation)
        return reduced


@contextlib.contextmanager
def join(
    rank: int, size: int, local_rank: int, device: torch.device, timeout: float, store: dist.Store | None = None
) -> Iterator[World]:
    """The world of `size` processes, each of which enters this; they part again on the way out.

    Args:
        rank, size, local_rank, device: see `World`. For size 1 no process group is made.
        timeout: seconds that a process waits for another in any collective operation.
        store: where the processes meet; None: at the environment's MASTER_ADDR and MASTER_PORT.

    Raises:
        LostRankError: another process ended or does not answer in time.
    """
    if size == 1:
        yield World(0, 1, local_rank, device)
        return
    cuda = device.type == "cuda"
    try:
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if cuda else "gloo",  # values and flags travel over gloo beside NCCL's tensors
            rank=rank,
            world_size=size,
            timeout=datetime.timedelta(seconds=timeout),
            store=store,
            device_id=device if cuda else None,
        )
        yield World(rank, size, local_rank, device)
    except BaseException as error:
        _leave(failed=True)
        if isinstance(error, Exception) and means_lost_rank(error):
            raise LostRankError(_lost(error, timeout)) from error
        raise
    _leave(failed=False)


def still_joined() -> bool:
    """Whether the process group could not be left; then it would hold up the interpreter's end too."""
    return dist.is_initialized()


def means_lost_rank(error: Exception) -> bool:
    """Whether this is how torch says that another process is gone or silent."""
    if isinstance(error, dist.DistError):
        return True
    return isinstance(error, RuntimeError) and any(word in str(error) for word in GLOO)


def _lost(error: Exception, timeout: float) -> str:
    if "imed out" in str(error):
        return (
            f"another process of this run did not answer within trainer.timeout={timeout:g} s; it hangs, or it is "
            "slower than that: raise trainer.timeout"
        )
    return "another process of this run ended"


def _leave(failed: bool) -> None:
    """Takes the process group down; leaving without that ends a good run with SIGABRT."""
    if not dist.is_initialized():
        return
    if not failed:
        dist.destroy_process_group()
        return
    # Of a daemon thread, because what is unfinished may wait for a peer that will never come.
    thread = threading.Thread(target=_destroy_quietly, daemon=True)
    thread.start()
    thread.join(SECONDS_TO_LEAVE)


def _destroy_quietly() -> None:
    with contextlib.suppress(Exception):
        group = dist.group.WORLD
        if group is not None and torch.cuda.is_available():
            group.abort()  # NCCL's own way out of a collective that cannot finish
        dist.destroy_process_group()
