"""Where a run stands."""

from dataclasses import asdict, dataclass
from typing import Any


@dataclass
class RunState:
    """What a run must remember besides weights and optimizer; everything else is derived from it.

    Attributes:
        step: completed optimizer updates.
        evaluated_step: the step of the newest evaluation, 0 before the first.
        best_value: best value of the monitored metric so far, None before the first evaluation.
        best_step: the step at which it was reached.
        counted_value: the newest value that was better by more than `min_gain` than the one that counted before it.
        stale_evaluations: evaluations since that.
        skipped_steps: updates that loss scaling left out because a gradient overflowed in fp16.
        skipped_in_a_row: of those, the newest without a good one between them.
    """

    step: int = 0
    evaluated_step: int = 0
    best_value: float | None = None
    best_step: int = 0
    counted_value: float | None = None
    stale_evaluations: int = 0
    skipped_steps: int = 0
    skipped_in_a_row: int = 0

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)
