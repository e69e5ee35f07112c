"""What the optimizer is given: parameter groups, and the learning rate of every step."""

from segtrain.optim.parameter_groups import parameter_groups
from segtrain.optim.schedules import Constant, Cosine, Poly, Schedule, Step

__all__ = ["Constant", "Cosine", "Poly", "Schedule", "Step", "parameter_groups"]
