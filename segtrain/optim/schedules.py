"""The learning rate as a pure function of the step.

A schedule is called with the number of the update about to be made, 0 <= step < max_steps, and answers with the
factor in [0, 1] that the learning rate of every parameter group is multiplied by. It remembers nothing, so a resumed
run needs nothing restored.

    factor
      1 |      /\\
        |    /    `-.               warm-up: linear from warmup_factor, 1 at step warmup_steps;
        |  /          `-.           from there the schedule's own curve over the steps that are left
        |/                `-- final_factor
        +-----+--------------+--> step
           warmup_steps   max_steps
"""

import math
from dataclasses import dataclass

from segtrain.errors import ConfigError


@dataclass(frozen=True)
class Schedule:
    """Linear warm-up, then the curve that a subclass writes in `after_warmup`.

    Args:
        max_steps: optimizer updates of the whole run.
        warmup_steps: updates until the full learning rate is reached, in [0, max_steps).
        warmup_factor: factor of the first update if there is a warm-up, in [0, 1].

    Raises:
        ConfigError: a value out of range.
    """

    max_steps: int
    warmup_steps: int
    warmup_factor: float

    def __post_init__(self) -> None:
        if not 0 <= self.warmup_steps < self.max_steps:
            raise ConfigError(
                f"warmup_steps: {self.warmup_steps} must be at least 0 and less than the run's {self.max_steps} steps"
            )
        self._check_share("warmup_factor")

    def __call__(self, step: int) -> float:
        """Factor of the learning rate for update number `step`; beyond the end, the last curve value."""
        if step < self.warmup_steps:
            return self.warmup_factor + (1 - self.warmup_factor) * step / self.warmup_steps
        return self.after_warmup(step)

    def after_warmup(self, step: int) -> float:
        """The factor for step >= warmup_steps."""
        raise NotImplementedError

    def progress(self, step: int) -> float:
        """Share of the steps after warm-up that is done, in [0, 1]."""
        return min((step - self.warmup_steps) / (self.max_steps - self.warmup_steps), 1.0)

    def _check_share(self, field: str) -> None:
        value = getattr(self, field)
        if not 0 <= value <= 1:
            raise ConfigError(f"{field}: {value} must be in [0, 1]")


@dataclass(frozen=True)
class Poly(Schedule):
    """`final_factor + (1 - final_factor) * (1 - progress)^power`.

    Args:
        power: above 0; 1 is linear.
        final_factor: factor approached at `max_steps`, in [0, 1].

    Source: Liu et al. 2015, arXiv:1506.04579; Chen et al. 2016, arXiv:1606.00915, with power 0.9.
    """

    power: float
    final_factor: float

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_share("final_factor")
        if not self.power > 0:
            raise ConfigError(f"power: {self.power} must be above 0; 0.9 is customary, 1 is linear")

    def after_warmup(self, step: int) -> float:
        return self.final_factor + (1 - self.final_factor) * (1 - self.progress(step)) ** self.power


@dataclass(frozen=True)
class Cosine(Schedule):
    """`final_factor + (1 - final_factor) * (1 + cos(pi * progress)) / 2`, half a period without restarts.

    Args:
        final_factor: factor approached at `max_steps`, in [0, 1].

    Source: Loshchilov and Hutter 2017, arXiv:1608.03983, equation 5.
    """

    final_factor: float

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_share("final_factor")

    def after_warmup(self, step: int) -> float:
        return self.final_factor + (1 - self.final_factor) * (1 + math.cos(math.pi * self.progress(step))) / 2


@dataclass(frozen=True)
class Step(Schedule):
    """`gamma^(number of milestones reached)`.

    Args:
        milestones: when to drop, as shares of `max_steps`, ascending, each after the warm-up and before the end.
            Shares, so that a shorter or longer run keeps the shape; each falls on the nearest whole step.
        gamma: factor of each drop, in [0, 1].
    """

    milestones: list[float]
    gamma: float

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_share("gamma")
        for share in self.milestones:
            if share >= 1:
                raise ConfigError(
                    f"milestones: {share:g} is not a share of the run below 1; "
                    f"for step {share:g} of {self.max_steps} write {share / self.max_steps:.4g}"
                )
            if not share * self.max_steps > self.warmup_steps:
                raise ConfigError(f"milestones: {share:g} must come after the warm-up of {self.warmup_steps} steps")
        if sorted(set(self.milestones)) != list(self.milestones):
            raise ConfigError(f"milestones: {self.milestones} must ascend")

    def after_warmup(self, step: int) -> float:
        return self.gamma ** sum(step >= round(share * self.max_steps) for share in self.milestones)


@dataclass(frozen=True)
class Constant(Schedule):
    """1 after the warm-up."""

    def after_warmup(self, step: int) -> float:
        return 1.0
