"""Two processes that train together, forked from the tests' own, so that nothing has to be imported anew."""

import datetime
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from segtrain.distributed.world import join

CPU = torch.device("cpu")


def in_two_processes(function: Callable[..., Any], folder: Path, *args: Any) -> list[Any]:
    """What `function(world, *args)` returned, or the exception it raised, in each of two processes."""
    folder.mkdir(exist_ok=True)
    mp.start_processes(_process, args=(function, folder, args), nprocs=2, start_method="fork")
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(2)]


def _process(rank: int, function: Callable[..., Any], folder: Path, args: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    store = dist.FileStore(str(folder / "store"), 2)
    store.set_timeout(datetime.timedelta(seconds=60))
    try:
        with join(rank, 2, rank, CPU, timeout=60, store=store) as world:
            result = function(world, *args)
    except Exception as error:
        result = error.with_traceback(None)
    torch.save(result, folder / f"{rank}.pt")
