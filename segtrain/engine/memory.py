"""Running out of memory: how it is recognised, and the batch size that would fit."""

import contextlib
from collections.abc import Callable, Iterator, Sequence

import torch

from segtrain.engine.step import StepResult, TrainStep
from segtrain.errors import MachineError
from segtrain.types import Batch

# How torch's allocator for the CPU says it; a kernel that overcommits ends the process instead.
CPU_ALLOCATOR = ("can't allocate memory", "not enough memory")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a device, or the machine, had not enough memory for a tensor."""
    return isinstance(error, torch.OutOfMemoryError) or any(word in str(error) for word in CPU_ALLOCATOR)


def step_or_explain(step: TrainStep, batches: Sequence[Batch], number: int) -> StepResult:
    """One update, for a loop that keeps nothing. Raises MachineError, with the remedy, where memory runs out."""
    try:
        return step(batches, number)
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise MachineError(explain_out_of_memory(error, step, batches[0])) from error
        raise


def explain_out_of_memory(error: BaseException, step: TrainStep, batch: Batch) -> str:
    """One line with the batch size that fits, found by trying; called while the error is being handled.

    Nothing of the run is kept: gradients are thrown away, and running statistics may have moved.
    """
    reason = str(error).splitlines()[0].strip()
    images = len(batch.names)
    if step.world.size > 1:  # the other ranks wait in the step that failed, and would take no part in trying
        return f"out of memory with data.batch_size={images} on this rank ({reason}); {REMEDIES}"
    step.parts.optimizer.zero_grad(set_to_none=True)
    _release()

    def attempt(count: int) -> None:
        part = Batch(batch.images[:count], batch.labels[:count], batch.names[:count])
        loss, _ = step.forward(*step.to_device(part), None)
        loss.backward()
        step.parts.optimizer.zero_grad(set_to_none=True)

    fitting = largest_that_fits(attempt, images)
    if fitting == 0:
        return f"out of memory with data.batch_size={images}, and with 1 ({reason}); {REMEDIES}"
    size = " x ".join(map(str, batch.images.shape[-2:]))
    return (
        f"out of memory with data.batch_size={images} of {size} pixels ({reason}); {fitting} fits: set "
        f"data.batch_size={fitting} trainer.accumulate={-(-images // fitting) * step.options.accumulate}, or {REMEDIES}"
    )


def evaluation_fits() -> contextlib.AbstractContextManager[None]:
    """Raises MachineError, with the remedy, where memory runs out while something is only evaluated."""
    return _fits(
        "an evaluation",
        "lower data.eval_batch_size, use trainer.precision=bf16, or evaluate smaller images (inference.scale)",
    )


def prediction_fits() -> contextlib.AbstractContextManager[None]:
    """The same of predictions: pictures come one at a time, at their own size."""
    return _fits(
        "a prediction",
        "predict in windows (inference=slide), fewer of them at once (inference.batch_size), a large picture block by "
        "block (inference.memory=2GiB), or use trainer.precision=bf16",
    )


@contextlib.contextmanager
def _fits(what: str, remedy: str) -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        reason = str(error).splitlines()[0].strip()
        raise MachineError(f"out of memory in {what} ({reason}); {remedy}") from error


REMEDIES = "lower augment.crop_size, use trainer.precision=bf16 or model.activation_checkpointing=true"


def largest_that_fits(attempt: Callable[[int], None], failed: int) -> int:
    """The largest number below `failed` for which `attempt` does not run out of memory, by bisection; 0 if none.

    Raises:
        RuntimeError: `attempt` failed for another reason.
    """
    fits = 0
    while failed - fits > 1:
        count = (fits + failed) // 2
        if _succeeds(attempt, count):
            fits = count
        else:
            failed = count
    return fits


def _succeeds(attempt: Callable[[int], None], count: int) -> bool:
    try:
        attempt(count)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        return False
    finally:
        _release()
    return True


def _release() -> None:
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
