"""What the optimizer is given: parameter groups, and the learning rate of every step."""

from segtrain.optim.parameter_groups import parameter_groups
from segtrain.optim.schedules import Constant, Cosine, Poly, Schedule, Step, apply_schedule

__all__ = ["Constant", "Cosine", "Poly", "Schedule", "Step", "apply_schedule", "parameter_groups"]
