"""What is kept of a step whose loss or gradient was no number: enough to run it again."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from segtrain.distributed.world import World
from segtrain.engine import checkpoint
from segtrain.engine.run_directory import RunDirectory
from segtrain.errors import NonFiniteError
from segtrain.types import Batch

MOST_NAMES = 8


def save_evidence(
    error: NonFiniteError,
    directory: RunDirectory,
    world: World,
    suspect: bool,
    state: dict[str, Any],
    batches: Sequence[Batch],
) -> NonFiniteError:
    """Writes `nonfinite/step_<step>.pt` for `segtrain replay`, and says so; all ranks call it.

    The weights in it are those before the step, which has not touched them; running statistics of norms have seen the
    batch. With several ranks those that the fault may have come from write, each a `step_<step>_rank<rank>.pt`.

    Args:
        error: what was found.
        directory: of the run.
        world: whose rank this is.
        suspect: whether this rank's part of the loss was no number, or none was, and it may have been any.
        state: contents of a checkpoint, with the random state from before the step.
        batches: of the step, on this rank.

    Returns:
        `error` with the names of the samples, the file, and how to look into it; the same on all ranks.

    Raises:
        MachineError: the disk is full.
    """
    step = state["state"]["step"] + 1
    names = [name for batch in batches for name in batch.names]
    reports = world.broadcast(world.gather((suspect, names)))
    suspects = [rank for rank, (blamed, _) in enumerate(reports) if blamed] or [*range(world.size)]
    if world.rank in suspects:
        rank = f"_rank{world.rank}" if world.size > 1 else ""
        path: Path = directory.nonfinite / f"step_{step:07d}{rank}.pt"
        path.parent.mkdir(exist_ok=True)
        kept = [{"images": batch.images, "labels": batch.labels, "names": list(batch.names)} for batch in batches]
        checkpoint.save({**state, "batches": kept, "found": str(error)}, path)
    world.barrier()  # no rank ends the others before they have written
    blamed = [name for rank in suspects for name in reports[rank][1]]
    more = f" and {len(blamed) - MOST_NAMES} more" if len(blamed) > MOST_NAMES else ""
    return NonFiniteError(
        f"{error}; the weights are as before. Samples: {', '.join(blamed[:MOST_NAMES])}{more}. "
        f"Look into it: segtrain replay {directory.path}"
    )
