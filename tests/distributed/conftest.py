"""Two processes that train together, forked from a server that has imported torch and done nothing else.

Forked from the tests' own process they would inherit whatever ran there before: once any test has made autograd start
a thread of its own, as a deep chain of reentrant backward passes does, no fork of that process may call `backward`.
"""

import datetime
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from segtrain.distributed.world import join

CPU = torch.device("cpu")

mp.get_context("forkserver").set_forkserver_preload(["segtrain.distributed.parallel", "segtrain.engine.trainer"])


def in_two_processes(function: Callable[..., Any], folder: Path, *args: Any) -> list[Any]:
    """What `function(world, *args)` returned, or the exception it raised, in each of two processes."""
    folder.mkdir(exist_ok=True)
    mp.start_processes(_process, args=(function, folder, args), nprocs=2, start_method="forkserver")
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
