"""Where features lie in the permutohedral lattice: the simplex around each, and the weight of each of its vertices."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

# The lattice A*_d lies in the hyperplane of R^(d+1) whose coordinates sum to 0. Its points have d + 1 colours: the
# coordinates of a point of colour k are all congruent to k modulo d + 1. Every simplex has one vertex of each colour.
# Adams, Baek and Davis 2010, section 3.


class Simplices(NamedTuple):
    """The simplex around each of N features of d dimensions.

    Attributes:
        cells: [d, N] int64: the first d coordinates of the vertex of colour 0, divided by d + 1.
        ranks: [d + 1, N] int64: how many coordinates of the feature, seen from that vertex, are larger. The vertex of
            colour k has, in units of d + 1, cell coordinates that are smaller by 1 where the rank exceeds d - k.
        weights: [d + 1, N]: barycentric coordinates by colour of the vertex, at least 0, sum 1.
    """

    cells: Tensor
    ranks: Tensor
    weights: Tensor


def enclosing_simplices(features: Tensor) -> Simplices:
    """The simplex around each feature.

    Args:
        features: [d, N] floating point, in units of the Gaussian's standard deviation.

    Source: Adams, Baek and Davis 2010, "Fast high-dimensional filtering using the permutohedral lattice", section 3.1
    (splatting).
    """
    d = len(features)
    elevated = _elevate(features)
    # The nearest point with all coordinates divisible by d + 1, which may lie off the hyperplane at first.
    cells = (elevated / (d + 1)).round_()
    offsets = elevated.sub_(cells, alpha=d + 1)
    excess = cells.sum(dim=0)
    ranks = _ranks(offsets) + excess.long()
    # Back onto the hyperplane: the coordinates that were rounded furthest are rounded the other way.
    shift = (ranks < 0).long() - (ranks > d).long()
    ranks += shift * (d + 1)
    cells += shift
    offsets -= shift * (d + 1)
    # descending[r]: the offset of rank r.
    descending = torch.empty_like(offsets).scatter_(0, ranks, offsets).div_(d + 1)
    weights = torch.empty_like(descending)
    torch.sub(descending[:-1].flip(0), descending[1:].flip(0), out=weights[1:])
    torch.sub(descending[d], descending[0], out=weights[0]).add_(1)
    return Simplices(cells[:d].long(), ranks, weights.clamp_(min=0))


def _elevate(features: Tensor) -> Tensor:
    """[d + 1, N]: features in the hyperplane, scaled so that the lattice's blur has the standard deviation 1 of theirs.

    Splatting, the blur and slicing together have, per dimension, the variance (d + 1)^2 * 2 / 3 in lattice units.
    """
    d = len(features)
    scale = math.sqrt(2 / 3) * (d + 1)
    elevated = features.new_zeros(d + 1, features.shape[1])
    for i in range(d):  # the i-th basis vector is (1, ..., 1, -(i + 1), 0, ..., 0), here of unit length
        scaled = features[i] * (scale / math.sqrt((i + 1) * (i + 2)))
        elevated[: i + 1] += scaled
        elevated[i + 1].sub_(scaled, alpha=i + 1)
    return elevated


def _ranks(offsets: Tensor) -> Tensor:
    """[d + 1, N] int64: how many coordinates are larger; of equal ones the first has the lower rank."""
    ranks = torch.zeros(offsets.shape, dtype=torch.int8 if len(offsets) < 128 else torch.int64, device=offsets.device)
    for i in range(len(offsets)):
        for j in range(i + 1, len(offsets)):
            smaller = offsets[i] < offsets[j]
            ranks[i] += smaller
            ranks[j] += ~smaller
    return ranks.long()
