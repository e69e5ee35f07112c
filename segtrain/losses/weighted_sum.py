"""A sum of losses."""

import math
from typing import TypedDict

import torch
from torch import Tensor, nn

from segtrain.errors import ConfigError, nearest


class Term(TypedDict):
    """A module called with (logits, labels), and what its value counts in the sum."""

    weight: float
    loss: nn.Module


class WeightedSum(nn.Module):
    """`sum_k weight_k * loss_k(logits, labels)`, each term known by its name.

    Args:
        terms: by name. Weights are at least 0; a weight of 0 measures the term without training on it.

    Raises:
        ConfigError: no term; a term with other keys than `weight` and `loss`; a weight that is no number or negative.
    """

    def __init__(self, terms: dict[str, Term]) -> None:
        super().__init__()
        if not terms:
            raise ConfigError("terms: empty; name at least one, as {cross_entropy: {weight: 1.0, loss: {...}}}")
        for name, term in terms.items():
            _check_term(name, term)
        self.weights = {name: float(term["weight"]) for name, term in terms.items()}
        self.losses = nn.ModuleDict({name: term["loss"] for name, term in terms.items()})

    def values(self, logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Each term's own value, before its weight."""
        return {name: loss(logits, labels) for name, loss in self.losses.items()}

    def denominators(self, labels: Tensor) -> Tensor:
        """What each term's mean is divided by: [number of terms] float32, see `SegmentationLoss.denominator`.

        For a loss that does not say, a class of the user's own, the number of labels.
        """
        amount = torch.full((), float(labels.numel()), device=labels.device)
        return torch.stack(
            [getattr(loss, "denominator", lambda labels: amount)(labels) for loss in self.losses.values()]
        )

    def combine(self, values: dict[str, Tensor]) -> Tensor:
        """The weighted sum of what `values` returned."""
        weighted = [self.weights[name] * value for name, value in values.items()]
        return sum(weighted[1:], start=weighted[0])

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        return self.combine(self.values(logits, labels))


def _check_term(name: str, term: Term) -> None:
    known = Term.__annotations__
    for key in term:
        if key not in known:
            raise ConfigError(f"terms.{name}.{key}: a term has weight and loss{nearest(key, known)}")
    for key in known:
        if key not in term:
            raise ConfigError(f"terms.{name}: {key} is missing; a term has weight and loss")
    weight = term["weight"]
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 <= weight < math.inf:
        raise ConfigError(f"terms.{name}.weight: {weight!r} must be a number, at least 0")
