"""The points of the permutohedral lattice that are vertices of some simplex: each found once, and their neighbours."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from segtrain.inference.crf.simplices import Simplices


class Points(NamedTuple):
    """M lattice points.

    Attributes:
        order: [(d + 1) N] int64: the vertices of all simplices (vertex of colour k of feature n: k N + n), those that
            are the same point together.
        first: [M] int64: where in `order` each point's vertices begin.
        of_vertex: [d + 1, N] int64: the point that each vertex is.
        after: [d + 1, M] int64: the next point in each of the blur's directions; M where it is no vertex.
        before: [d + 1, M] int64: likewise the one before.
    """

    order: Tensor
    first: Tensor
    of_vertex: Tensor
    after: Tensor
    before: Tensor


class Code(NamedTuple):
    """A number for every lattice point, linear in its cell and colour, so that neighbours differ by a constant.

    Attributes:
        cells: d numbers, what each coordinate of the cell counts.
        colour: what the colour counts.
    """

    cells: tuple[int, ...]
    colour: int


def find_points(simplices: Simplices) -> Points:
    """The vertices of all simplices, sorted by a number that is another for every point."""
    d, n = simplices.cells.shape
    exact = _mixed_radix(simplices.cells)
    generator = torch.Generator().manual_seed(0)
    while True:
        code = exact or _hash(d, generator)
        # A hash is checked by another one: points that share both numbers of 64 bits are taken for the same.
        witness = None if exact else _hash(d, generator)
        numbers, order = _numbers(simplices, code).flatten().sort(stable=True)
        is_first = torch.ones_like(numbers, dtype=torch.bool)
        torch.ne(numbers[1:], numbers[:-1], out=is_first[1:])
        witnesses = None if witness is None else _numbers(simplices, witness).flatten()[order]
        if witnesses is None or bool((is_first[1:] | (witnesses[1:] == witnesses[:-1])).all()):
            break
    first = is_first.nonzero().flatten()
    of_vertex = torch.empty_like(order).scatter_(0, order, is_first.cumsum(0) - 1)
    colours = order[first] // n
    after, before = _neighbours(numbers[first], colours, code, d)
    if witness is not None and witnesses is not None:
        after, before = _confirmed(after, before, witnesses[first], colours, witness)
    return Points(order, first, of_vertex.view(d + 1, n), after, before)


def _mixed_radix(cells: Tensor) -> Code | None:
    """A code that no two points in reach share, or None if their number exceeds 63 bits."""
    d = len(cells)
    low, high = cells.amin(dim=1).tolist(), cells.amax(dim=1).tolist()
    # A vertex's cell may be 1 below its simplex's, and a neighbour's 1 below or above that.
    extents = [int(top) - int(bottom) + 4 for bottom, top in zip(low, high, strict=True)]
    if math.prod(extents) * (d + 1) >= 2**62:
        return None
    places = [d + 1]
    for extent in reversed(extents[1:]):
        places.insert(0, places[0] * extent)
    return Code(tuple(places), 1)


def _hash(d: int, generator: torch.Generator) -> Code:
    """Random factors: codes modulo 2^64, two points sharing one with a chance of about 2^-64."""
    cells = torch.randint(-(2**62), 2**62, (d + 1,), generator=generator).mul(2).add(1).tolist()
    return Code(tuple(cells[:d]), cells[d])


def _numbers(simplices: Simplices, code: Code) -> Tensor:
    """[d + 1, N] int64: the numbers of all vertices, by colour; integers wrap around at 64 bits."""
    cells, ranks = simplices.cells, simplices.ranks
    numbers = torch.zeros_like(ranks)
    for cell, factor in zip(cells, code.cells, strict=True):
        numbers[0].add_(cell * factor)
    # From colour k - 1 to k the cell coordinate of rank d + 1 - k loses 1; the last coordinate, d, is not stored.
    factors = torch.tensor([*code.cells, 0], device=ranks.device)[:, None].expand_as(ranks)
    by_rank = torch.empty_like(ranks).scatter_(0, ranks, factors)
    d = len(cells)
    for k in range(1, d + 1):
        torch.sub(numbers[k - 1], by_rank[d + 1 - k], out=numbers[k]).add_(code.colour)
    return numbers


def _steps(colours: Tensor, code: Code, direction: int) -> Tensor:
    """[M] int64: by how much the next point's number exceeds each point's.

    The next point has 1 more in all d + 1 coordinates but that of the direction, which has d less.
    """
    d = len(code.cells)
    own = code.cells[direction] if direction < d else 0
    # Colour d is followed by colour 0 of the next cell in all directions but its own.
    return torch.where(
        colours == d,
        _wrapped(sum(code.cells) - own - d * code.colour),
        _wrapped(code.colour - own),
    )


def _wrapped(number: int) -> int:
    """`number` modulo 2^64, as an int64."""
    return (number + 2**63) % 2**64 - 2**63


def _neighbours(numbers: Tensor, colours: Tensor, code: Code, d: int) -> tuple[Tensor, Tensor]:
    """`after` and `before` of M points of ascending `numbers`."""
    m = len(numbers)
    places = torch.arange(m, device=numbers.device)
    after, before = (torch.full((d + 1, m + 1), m, device=numbers.device) for _ in range(2))
    for direction in range(d + 1):
        wanted = numbers + _steps(colours, code, direction)
        found = torch.searchsorted(numbers, wanted).clamp_(max=m - 1)
        after[direction, :m] = torch.where(numbers[found] == wanted, found, m)
        before[direction].scatter_(0, after[direction, :m], places)  # whatever lands on m is no point's
    return after[:, :m], before[:, :m]


def _confirmed(
    after: Tensor, before: Tensor, witnesses: Tensor, colours: Tensor, witness: Code
) -> tuple[Tensor, Tensor]:
    """Neighbours by hash, without those that the second hash does not confirm."""
    m = after.shape[1]
    after, before = after.clone(), before.clone()
    for direction in range(len(after)):
        found = after[direction]
        wrong = (found < m) & (witnesses[found.clamp(max=m - 1)] != witnesses + _steps(colours, witness, direction))
        before[direction, found[wrong]] = m
        found[wrong] = m
    return after, before
