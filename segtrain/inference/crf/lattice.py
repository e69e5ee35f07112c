"""Gaussian filtering in many dimensions over the permutohedral lattice, as gathers that torch has made fast."""

import copy
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor

from segtrain.inference.crf.points import Points, find_points
from segtrain.inference.crf.simplices import enclosing_simplices


class Lattice:
    """A Gaussian kernel between N features, k(f_i, f_j) ~ exp(-|f_i - f_j|^2 / 2), built once and applied many times.

    Values are splatted onto the vertices of the simplices around their features, blurred along the lattice's d + 1
    directions, and sliced: read again at the features (Adams, Baek and Davis 2010). All three are weighted sums of
    rows at fixed indices, computed by `embedding_bag`: nothing is scattered, so that results do not depend on the
    order in which threads finish, on CUDA neither.

    Args:
        features: [d, N] float32 or float64, in units of the Gaussian's standard deviation; any d >= 1.

    Attributes:
        num_points: M, the lattice points in use; time and memory of the blur grow with it.
    """

    def __init__(self, features: Tensor) -> None:
        d, n = features.shape
        simplices = enclosing_simplices(features)
        points = find_points(simplices)
        self.num_points = len(points.first)
        # Half the bytes, and faster, where they suffice.
        index = torch.int32 if (d + 1) * n < 2**31 else torch.int64
        # A feature on a lattice point gets back 1 + 2^-d of its own value: once staying, once around all directions.
        sliced = simplices.weights / (1 + 2.0**-d)
        self._splat_rows = (points.order % n).to(index)
        self._splat_weights = simplices.weights.flatten()[points.order]
        self._splat_begins = points.first.to(index)
        self._blur = [_direction(points, number, index, features.dtype) for number in range(d + 1)]
        self._slice_rows = points.of_vertex.T.to(index).contiguous()
        self._slice_weights = sliced.T.contiguous()

    def filter(self, values: Tensor) -> Tensor:
        """[N, C]: sum_j k(f_i, f_j) values_j, the term j = i included.

        Args:
            values: [N, C], of the features' dtype.
        """
        splatted = _weighted_sums(values, self._splat_rows, self._splat_weights, self._splat_begins)
        for rows, weights in self._blur:
            splatted = _weighted_sums(splatted, rows, weights)
        return _weighted_sums(splatted, self._slice_rows, self._slice_weights)

    def scaled(self, before: Tensor | None, after: Tensor | None) -> Self:
        """The filter diag(after) K diag(before), at no more cost than K.

        Args:
            before: [N] factors of the values; None: 1.
            after: [N] factors of the results; None: 1.
        """
        other = copy.copy(self)
        if before is not None:
            other._splat_weights = self._splat_weights * before[self._splat_rows]
        if after is not None:
            other._slice_weights = self._slice_weights * after[:, None]
        return other


def _weighted_sums(table: Tensor, rows: Tensor, weights: Tensor, begins: Tensor | None = None) -> Tensor:
    """Row i of the result is the sum of the table's rows that bag i names, each times its weight."""
    return F.embedding_bag(rows, table, begins, mode="sum", per_sample_weights=weights)


def _direction(points: Points, number: int, index: torch.dtype, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Rows and weights, [M, 3] each, of the blur [1/2, 1, 1/2] in one direction; what is no point counts 0."""
    m = len(points.first)
    own = torch.arange(m, device=points.first.device)
    neighbours = torch.stack([points.before[number], own, points.after[number]], dim=1)
    present = neighbours < m
    rows = torch.where(present, neighbours, own[:, None]).to(index)
    return rows, present * torch.tensor([0.5, 1.0, 0.5], dtype=dtype, device=own.device)
