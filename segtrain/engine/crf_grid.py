"""Which parameters of the dense CRF a coarse-to-fine search tries."""

import itertools
import math
from collections.abc import Mapping, Sequence

Parameters = dict[str, float]
Axes = dict[str, tuple[float, ...]]


def combinations(axes: Mapping[str, Sequence[float]]) -> list[Parameters]:
    """Every combination of the axes' values."""
    return [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]


def refined(axes: Mapping[str, Sequence[float]], best: Parameters) -> Axes:
    """Axes around the best parameters, each of steps half as wide as before, in ratios.

    The neighbours of 50 on the axis 25, 50, 100 were 2 times as small and as large; they become 2^(1/2) times. Where
    the best value was an axis's first or last, the finer axis reaches beyond it. An axis of one value stays.

    Args:
        axes: positive values, of the round that found `best`.
        best: a value of each axis.
    """
    finer: Axes = {}
    for name, values in axes.items():
        ordered = sorted(set(values))
        place = ordered.index(best[name])
        if len(ordered) == 1:
            finer[name] = (best[name],)
            continue
        down = ordered[place] / ordered[place - 1] if place > 0 else ordered[1] / ordered[0]
        up = ordered[place + 1] / ordered[place] if place + 1 < len(ordered) else ordered[-1] / ordered[-2]
        finer[name] = (_rounded(best[name] / math.sqrt(down)), best[name], _rounded(best[name] * math.sqrt(up)))
    return finer


def _rounded(value: float) -> float:
    """Three significant digits: more promise a precision that no search has."""
    return float(f"{value:.3g}")
