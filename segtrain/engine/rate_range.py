"""The learning-rate range test: train with a rate that grows every step, and read off where the loss falls and where
it explodes.

Source: Smith 2017, arXiv:1506.01186, Section 3.3; rates spaced evenly on a logarithmic axis, as is usual since.
"""

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from segtrain.engine.memory import step_or_explain
from segtrain.engine.step import TrainStep
from segtrain.errors import ConfigError, NonFiniteError
from segtrain.types import Batch

# A suggestion needs some steps on either side of it.
FEWEST_STEPS = 10


@dataclass(frozen=True)
class RangeOptions:
    """What a test tries; `configs/lr_range.yaml` says what each key does.

    Raises:
        ConfigError: no range, or no number of its kind.
    """

    min_lr: float
    max_lr: float
    steps: int
    smoothing: float
    diverged: float

    def __post_init__(self) -> None:
        problems = []
        if not 0 < self.min_lr < self.max_lr:
            problems.append(f"min_lr={self.min_lr} and max_lr={self.max_lr}: need 0 < min_lr < max_lr")
        if self.steps < FEWEST_STEPS:
            problems.append(f"steps={self.steps} must be at least {FEWEST_STEPS}")
        if not self.smoothing >= 0:
            problems.append(f"smoothing={self.smoothing} must be at least 0, which smooths nothing")
        if not self.diverged > 1:
            problems.append(f"diverged={self.diverged} must be greater than 1")
        if problems:
            raise ConfigError("\n".join(problems))

    def rate(self, step: int) -> float:
        """The learning rate of step 0 (`min_lr`) to steps - 1 (`max_lr`)."""
        return self.min_lr * (self.max_lr / self.min_lr) ** (step / (self.steps - 1))


@dataclass(frozen=True)
class RangeResult:
    """What a test found, step by step.

    Attributes:
        rates: of each step that was made.
        losses: before each of these updates.
        smoothed: the same, smoothed.
        diverged: whether the loss exploded before the last rate was reached.
        steepest: the rate at which the smoothed loss falls fastest per factor of the rate; None where it never falls.
        minimum: the rate at which it is lowest; likewise.
    """

    rates: list[float]
    losses: list[float]
    smoothed: list[float]
    diverged: bool
    steepest: float | None
    minimum: float | None

    @property
    def suggested(self) -> float | None:
        """The smaller of `steepest` and a tenth of `minimum`, to two digits."""
        if self.steepest is None or self.minimum is None:
            return None
        return float(f"{min(self.steepest, self.minimum / 10):.1e}")

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for `lr_range.json`."""
        return {**asdict(self), "suggested": self.suggested}


def range_test(step: TrainStep, batches: Iterable[Batch], accumulate: int, options: RangeOptions) -> RangeResult:
    """Trains with growing rates until the last, or until the loss explodes.

    Args:
        step: its schedule gives the rates of `options` to the optimizer. Its model is worthless afterwards.
        batches: of the training, endless.
        accumulate: batches to a step.
        options: the range.

    Raises:
        NonFiniteError: the very first loss is no number: no learning rate is to blame.
        MachineError: out of memory.
    """
    source = iter(batches)
    losses: list[float] = []
    diverged = False
    for number in range(options.steps):
        try:
            result = step_or_explain(step, list(itertools.islice(source, accumulate)), number)
        except NonFiniteError:
            if number == 0:
                raise
            diverged = True
            break
        losses.append(float(result.loss))
        smoothed = smooth(losses, options.smoothing)
        if smoothed[-1] > options.diverged * min(smoothed):
            diverged = True
            break
    rates = [options.rate(number) for number in range(len(losses))]
    smoothed = smooth(losses, options.smoothing)
    return RangeResult(rates, losses, smoothed, diverged, *landmarks(rates, smoothed))


def smooth(values: Sequence[float], width: float) -> list[float]:
    """Means under a Gaussian around each value.

    It looks to both sides, because a mean over the past alone lags behind and shifts the curve to larger rates. The
    last values have nothing after them, so that the newest one is a mean over the past.

    Args:
        values: at equal distances.
        width: standard deviation of the Gaussian, in such distances; 0 smooths nothing.
    """
    if width == 0:
        return list(values)
    y = np.asarray(values, dtype=np.float64)
    distances = np.arange(len(y))[:, None] - np.arange(len(y))[None, :]
    kernel = np.exp(-0.5 * (distances / width) ** 2)
    smoothed: list[float] = (kernel @ y / kernel.sum(axis=1)).tolist()
    return smoothed


def landmarks(rates: Sequence[float], losses: Sequence[float]) -> tuple[float | None, float | None]:
    """Where a smoothed loss falls fastest over the logarithm of the rate, and where it is lowest.

    The slope at a step is that between its neighbours. Both are None where the lowest loss is the first, or is reached
    before there is a slope.
    """
    lowest = min(range(len(losses)), key=lambda i: losses[i], default=0)
    inner = range(1, lowest)
    if not inner:
        return None, None
    slopes = {i: (losses[i + 1] - losses[i - 1]) / math.log(rates[i + 1] / rates[i - 1]) for i in inner}
    return rates[min(slopes, key=lambda i: slopes[i])], rates[lowest]
