"""An exponential moving average of a model's weights."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from segtrain.distributed.parallel import local


class EMA:
    """Averages of a model's parameters and buffers, moved a little towards the model after every update.

        average <- d * average + (1 - d) * weight        d = min(decay, (1 + n) / (warmup + n)) at update n = 1, 2, ...

    so that the first updates, far from where training leads, are soon forgotten. Running statistics of norms are
    averaged too; integers (their counts of batches) are copied.

    Args:
        model: whose weights the averages begin with.
        decay: in (0, 1); the average reaches back about 1 / (1 - decay) updates.
        warmup: at least 1; 1: none.

    Attributes:
        updates: n, the number of updates so far.

    Source: Polyak and Juditsky 1992; the warm-up as in TensorFlow's `ExponentialMovingAverage`, whose constant is 10.
    """

    def __init__(self, model: nn.Module, decay: float, warmup: float) -> None:
        self.decay = decay
        self.warmup = warmup
        self.updates = 0
        self._weights = {name: value.detach() for name, value in model.state_dict(keep_vars=True).items()}
        self._averages = {name: value.clone() for name, value in self._weights.items()}
        self._moving = [name for name, value in self._weights.items() if value.is_floating_point()]
        self._copied = [name for name in self._weights if name not in set(self._moving)]

    @torch.no_grad()
    def update(self) -> None:
        """Takes the model's present weights into the averages."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (self.warmup + self.updates))
        averages, weights = self._pairs(self._moving)
        torch._foreach_lerp_(averages, weights, 1 - decay)
        for average, weight in zip(*self._pairs(self._copied), strict=True):
            average.copy_(weight)

    @contextlib.contextmanager
    def in_model(self) -> Iterator[None]:
        """The model has the averages as its weights for this long."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    @torch.no_grad()
    def _exchange(self) -> None:
        for average, weight in zip(*self._pairs(self._weights), strict=True):
            kept = weight.clone()
            weight.copy_(average)
            average.copy_(kept)

    def _pairs(self, names: Any) -> tuple[list[Tensor], list[Tensor]]:
        return [local(self._averages[name]) for name in names], [local(self._weights[name]) for name in names]

    def state_dict(self) -> dict[str, Any]:
        """`model`: the averages, named as in the model's own state; `updates`."""
        return {"model": dict(self._averages), "updates": self.updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, value in state["model"].items():
            self._averages[name].copy_(value)
        self.updates = state["updates"]
