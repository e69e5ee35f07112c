"""From a model's output to the one number that training minimises."""

import re
from typing import NamedTuple

from torch import Tensor, nn

from segtrain.errors import ConfigError, nearest
from segtrain.losses.weighted_sum import WeightedSum
from segtrain.types import ModelOutput


class LossOutput(NamedTuple):
    """What one batch costs.

    Attributes:
        total: scalar with a graph, to call `backward` on.
        terms: what it is made of, detached and before weighting: each term of the loss by its name, then
            `aux_<head>` for each auxiliary head.
    """

    total: Tensor
    terms: dict[str, Tensor]


class Criterion(nn.Module):
    """`loss(logits) + sum_k aux_weights[k] * loss(aux[k])`.

    In evaluation models return no auxiliary logits, and the loss is that of the main head.

    Args:
        loss: called with (logits, labels). A `WeightedSum` is reported term by term, any other loss under its class's
            name in snake case (`CrossEntropy`: `cross_entropy`).
        aux_weights: weight by auxiliary head, for every head the model has; empty for models without one.
    """

    def __init__(self, loss: nn.Module, aux_weights: dict[str, float]) -> None:
        super().__init__()
        if not isinstance(loss, WeightedSum):
            loss = WeightedSum({_snake_case(type(loss).__name__): {"weight": 1.0, "loss": loss}})
        self.loss = loss
        self.aux_weights = aux_weights

    def forward(self, output: ModelOutput, labels: Tensor, shares: Tensor | None = None) -> LossOutput:
        """Price a batch.

        Args:
            output: what the model returned.
            labels: [N, H, W] of any integer dtype.
            shares: [number of terms] of the loss: what this batch counts among those of one step, its part of the sum
                of their `denominators`. The sum over the batches is then the loss of all of them as one. None: 1.

        Raises:
            ConfigError: the model has other auxiliary heads than `aux_weights` names.
        """
        labels = labels.long()
        values = self._values(output.logits, labels, shares)
        total = self.loss.combine(values)
        if output.aux:
            self._check_heads(output.aux)
        for head, logits in output.aux.items():
            values[f"aux_{head}"] = self.loss.combine(self._values(logits, labels, shares))
            total = total + self.aux_weights[head] * values[f"aux_{head}"]
        return LossOutput(total, {name: value.detach() for name, value in values.items()})

    def denominators(self, labels: Tensor) -> Tensor:
        """What each term's mean over these labels is divided by: [number of terms] float32."""
        return self.loss.denominators(labels)

    def _values(self, logits: Tensor, labels: Tensor, shares: Tensor | None) -> dict[str, Tensor]:
        values = self.loss.values(logits, labels)
        if shares is None:
            return values
        return {name: value * share for (name, value), share in zip(values.items(), shares, strict=True)}

    def _check_heads(self, heads: dict[str, Tensor]) -> None:
        for name in self.aux_weights:
            if name not in heads:
                raise ConfigError(f"aux_weights.{name}: the model has no such auxiliary head{nearest(name, heads)}")
        for name in heads:
            if name not in self.aux_weights:
                raise ConfigError(f"aux_weights: auxiliary head {name!r} has no weight; give one (0.4 is customary)")


def _snake_case(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
