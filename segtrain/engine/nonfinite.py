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
    state: dict[str, Any],
    batches: Sequence[Batch],
) -> NonFiniteError:
    """Writes `nonfinite/step_<step>.pt` for `segtrain replay`, and says so.

    The weights in it are those before the step, which has not touched them; running statistics of norms have seen the
    batch. With several ranks each writes its own file, `step_<step>_rank<rank>.pt`.

    Args:
        error: what was found.
        directory: of the run.
        world: whose rank this is.
        state: contents of a checkpoint, with the random state from before the step.
        batches: of the step, on this rank.

    Returns:
        `error` with the names of the samples, the file, and how to look into it.

    Raises:
        MachineError: the disk is full.
    """
    step = state["state"]["step"] + 1
    rank = f"_rank{world.rank}" if world.size > 1 else ""
    path: Path = directory.nonfinite / f"step_{step:07d}{rank}.pt"
    path.parent.mkdir(exist_ok=True)
    kept = [{"images": batch.images, "labels": batch.labels, "names": list(batch.names)} for batch in batches]
    checkpoint.save({**state, "batches": kept, "found": str(error)}, path)
    names = [name for batch in batches for name in batch.names]
    more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    return NonFiniteError(
        f"{error}; the weights are as before. Samples: {', '.join(names[:MOST_NAMES])}{more}. "
        f"Look into it: segtrain replay {directory.path}"
    )
