"""Runs a step again whose loss or gradient was no number, and looks where the first such value appears."""

import contextlib
import math
import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from segtrain.engine.step import TrainStep
from segtrain.types import Batch

LARGEST = 5  # weights that are named


@dataclass(frozen=True)
class Values:
    """A tensor, or several taken together, in a line."""

    shape: tuple[int, ...]
    minimum: float
    maximum: float
    nans: int
    infinities: int

    @classmethod
    def of(cls, tensors: Sequence[Tensor]) -> "Values":
        """Minimum and maximum are of the finite values, NaN where there is none."""
        flat = torch.cat([tensor.detach().reshape(-1).float() for tensor in tensors])
        finite = flat[torch.isfinite(flat)]
        low, high = (float(finite.min()), float(finite.max())) if len(finite) else (math.nan, math.nan)
        nans = int(flat.isnan().sum())
        return cls(tuple(tensors[0].shape), low, high, nans, len(flat) - len(finite) - nans)

    @property
    def finite(self) -> bool:
        return self.nans == self.infinities == 0

    def __str__(self) -> str:
        shape = " x ".join(map(str, self.shape)) or "scalar"
        found = [f"{self.nans} NaN"] * bool(self.nans) + [f"{self.infinities} infinite"] * bool(self.infinities)
        span = "no finite value" if math.isnan(self.minimum) else f"{self.minimum:.4g} to {self.maximum:.4g}"
        return f"{shape}, {span}, {' and '.join(found) or 'all finite'}"


@dataclass(frozen=True)
class FirstActivation:
    """The first module whose output is not finite: those inside a module come before it.

    Attributes:
        module: name and class.
        inputs: what it was called with; None without a tensor among it.
        output: what it returned.
    """

    module: str
    inputs: Values | None
    output: Values


@dataclass(frozen=True)
class Replay:
    """What was found in one run of the step.

    Attributes:
        loss: of the step.
        terms: of each batch, by name.
        activation: the first that is not finite in the step, None if all are.
        gradient_norm: over all parameters; NaN or infinite where a gradient is not finite.
        bad_gradients: parameters whose gradient is not finite, each with what is in it.
        num_gradients: parameters that have a gradient.
        operation: what torch's anomaly detection says of the backward pass; None if it finds nothing.
    """

    loss: float
    terms: list[dict[str, float]]
    activation: FirstActivation | None
    gradient_norm: float
    bad_gradients: dict[str, Values]
    num_gradients: int
    operation: str | None

    @property
    def reproduced(self) -> bool:
        return not (math.isfinite(self.loss) and math.isfinite(self.gradient_norm))


def replay(step: TrainStep, batches: Sequence[Batch]) -> Replay:
    """Forward and backward passes of one step, without the update.

    The caller has put weights, modes and random state into what they were before the step.

    Args:
        step: over the model and criterion.
        batches: of the step.
    """
    model = step.parts.model
    state = torch.get_rng_state(), torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    loaded = [step.to_device(batch) for batch in batches]
    shares = step.shares([labels for _, labels in loaded])
    losses, terms = [], []
    with _watching(model) as found:
        for (images, labels), share in zip(loaded, shares, strict=True):
            total, named = step.forward(images, labels, share)
            step.scaler.scale(total).backward()
            losses.append(float(total.detach()))
            terms.append({name: float(value) for name, value in named.items()})
    scale = step.scaler.get_scale()
    gradients = {name: x.grad / scale for name, x in model.named_parameters() if x.grad is not None}
    norm = float(torch.stack([gradient.norm() for gradient in gradients.values()]).norm())
    bad = {name: values for name, gradient in gradients.items() if not (values := Values.of([gradient])).finite}
    torch.set_rng_state(state[0])
    if state[1]:
        torch.cuda.set_rng_state_all(state[1])
    operation = None
    for (images, labels), share in zip(loaded, shares, strict=True):
        operation = operation or _anomaly(step, images, labels, share)
    model.zero_grad(set_to_none=True)
    return Replay(sum(losses), terms, next(iter(found), None), norm, bad, len(gradients), operation)


@contextlib.contextmanager
def _watching(model: nn.Module) -> Iterator[list[FirstActivation]]:
    """A list that gets the first activation in the block that is not finite."""
    found: list[FirstActivation] = []

    def look(name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            tensors = list(_tensors(output))
            if found or all(bool(torch.isfinite(tensor).all()) for tensor in tensors):
                return
            given = list(_tensors(inputs))
            values = Values.of(given) if given else None
            found.append(FirstActivation(f"{name} ({type(module).__name__})", values, Values.of(tensors)))

        return hook

    handles = [module.register_forward_hook(look(name or "the model")) for name, module in model.named_modules()]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        if value.is_floating_point():
            yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _tensors(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors(item)


def _anomaly(step: TrainStep, images: Tensor, labels: Tensor, share: Tensor | None) -> str | None:
    """The operation whose gradient is NaN first, and the line that called it forward, as torch finds them."""
    with warnings.catch_warnings(record=True) as said, torch.autograd.detect_anomaly(check_nan=True):
        warnings.simplefilter("always")
        try:
            total, _ = step.forward(images, labels, share)
            step.scaler.scale(total).backward()
        except RuntimeError as error:
            if "returned nan values" not in str(error):
                raise
            text = str(error).splitlines()[0].rstrip(".")
            return f"{text}{_called_at([str(warning.message) for warning in said])}"
    return None


def _called_at(messages: Sequence[str]) -> str:
    """The deepest line of segtrain, or else of any file, in the traceback that a warning holds."""
    frames = [frame for text in messages for frame in re.findall(r'File "([^"]+)", line (\d+), in (\w+)', text)]
    ours = [frame for frame in frames if "segtrain" in frame[0]] or frames
    return f"; called in {ours[-1][2]}, {ours[-1][0]}:{ours[-1][1]}" if ours else ""


def largest_weights(model: nn.Module) -> dict[str, float]:
    """The parameters with the largest magnitudes, largest first; a value that is not finite is larger than any."""
    sizes = {name: float(x.detach().abs().max()) for name, x in model.named_parameters() if x.numel()}

    def size(name: str) -> float:
        return sizes[name] if math.isfinite(sizes[name]) else math.inf

    return {name: sizes[name] for name in sorted(sizes, key=size, reverse=True)[:LARGEST]}
