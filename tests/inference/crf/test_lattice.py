"""The permutohedral lattice: its geometry by hand, and its filter against a slow one over a dictionary."""

import itertools
from collections import defaultdict

import pytest
import torch
from torch import Tensor

from segtrain.inference.crf import points
from segtrain.inference.crf.lattice import Lattice
from segtrain.inference.crf.points import find_points
from segtrain.inference.crf.simplices import Simplices, enclosing_simplices

DIMENSIONS = [1, 2, 3, 5, 6]


def features(d: int, n: int = 60, spread: float = 2.0) -> Tensor:
    return spread * torch.randn(d, n, dtype=torch.float64, generator=torch.Generator().manual_seed(d))


def grid(height: int, width: int, sigma: float) -> Tensor:
    y, x = torch.meshgrid(torch.arange(float(height)), torch.arange(float(width)), indexing="ij")
    return torch.stack([x, y]).flatten(1).double() / sigma


def vertices(simplices: Simplices) -> Tensor:
    """[d + 1 colours, d + 1 coordinates, N]: the vertices, as the definition of `Simplices` says."""
    d, n = simplices.cells.shape
    found = torch.empty(d + 1, d + 1, n, dtype=torch.int64)
    for k in range(d + 1):
        found[k, :d] = (d + 1) * (simplices.cells - (simplices.ranks[:d] > d - k).long()) + k
        found[k, d] = -found[k, :d].sum(dim=0)
    return found


def elevated(values: Tensor) -> Tensor:
    """[d + 1, N]: features in the hyperplane, by an orthonormal basis of it."""
    d = len(values)
    basis = torch.zeros(d + 1, d, dtype=torch.float64)
    for i in range(d):
        basis[: i + 1, i] = 1
        basis[i + 1, i] = -(i + 1)
    return (2 / 3) ** 0.5 * (d + 1) * (basis / basis.norm(dim=0)) @ values


def slow_filter(simplices: Simplices, values: Tensor) -> Tensor:
    """Splat, blur and slice, point by point."""
    d, n = simplices.cells.shape
    corners = vertices(simplices)
    zero = torch.zeros(values.shape[1], dtype=torch.float64)
    table: dict[tuple[int, ...], Tensor] = defaultdict(lambda: zero)
    for k, i in itertools.product(range(d + 1), range(n)):
        key = tuple(corners[k, :, i].tolist())
        table[key] = table[key] + simplices.weights[k, i] * values[i]
    for direction in range(d + 1):
        step = [1] * (d + 1)
        step[direction] = -d
        blurred = {}
        for key, value in table.items():
            around = [tuple(a + sign * b for a, b in zip(key, step, strict=True)) for sign in (-1, 1)]
            blurred[key] = value + 0.5 * sum(table.get(neighbour, zero) for neighbour in around)
        table = defaultdict(lambda: zero, blurred)
    out = torch.zeros_like(values)
    for k, i in itertools.product(range(d + 1), range(n)):
        out[i] += simplices.weights[k, i] * table[tuple(corners[k, :, i].tolist())]
    return out / (1 + 2.0**-d)


@pytest.mark.parametrize("d", [*DIMENSIONS, 9])
def test_every_feature_is_the_weighted_mean_of_the_vertices_around_it(d: int) -> None:
    values = features(d, spread=20)
    simplices = enclosing_simplices(values)
    assert simplices.weights.min() >= 0
    assert torch.allclose(simplices.weights.sum(dim=0), torch.ones(60, dtype=torch.float64))
    mean = (simplices.weights[:, None] * vertices(simplices)).sum(dim=0)
    assert torch.allclose(mean, elevated(values), atol=1e-9)


@pytest.mark.parametrize("d", DIMENSIONS)
def test_vertices_have_the_coordinates_that_their_colour_says(d: int) -> None:
    corners = vertices(enclosing_simplices(features(d)))
    for k in range(d + 1):
        assert bool((corners[k] % (d + 1) == k).all())


@pytest.mark.parametrize("d", DIMENSIONS)
def test_the_filter_is_that_of_a_slow_and_obvious_lattice(d: int) -> None:
    # Two groups far from each other, and features that coincide.
    values = torch.cat([features(d, 40), 30 + features(d, 20), features(d, 5)], dim=1)
    channels = torch.rand(65, 3, dtype=torch.float64)
    lattice = Lattice(values)
    assert torch.allclose(lattice.filter(channels), slow_filter(enclosing_simplices(values), channels), atol=1e-12)


def test_points_too_many_to_be_numbered_are_found_by_hash() -> None:
    values = features(14, n=40, spread=60)
    simplices = enclosing_simplices(values)
    assert points._mixed_radix(simplices.cells) is None
    channels = torch.rand(40, 2, dtype=torch.float64)
    assert torch.allclose(Lattice(values).filter(channels), slow_filter(simplices, channels), atol=1e-12)


@pytest.mark.parametrize("d", DIMENSIONS)
def test_numbers_and_hashes_find_the_same_points(monkeypatch: pytest.MonkeyPatch, d: int) -> None:
    values, channels = features(d, 200), torch.rand(200, 2, dtype=torch.float64)
    numbered = Lattice(values)
    monkeypatch.setattr(points, "_mixed_radix", lambda cells: None)
    hashed = Lattice(values)
    assert hashed.num_points == numbered.num_points
    assert torch.allclose(hashed.filter(channels), numbered.filter(channels), atol=1e-12)


def test_a_hash_that_takes_two_points_for_one_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    values, channels = features(3, 200), torch.rand(200, 2, dtype=torch.float64)
    numbered, drawn = Lattice(values).filter(channels), []
    true_hash = points._hash

    def first_a_bad_one(d: int, generator: torch.Generator) -> points.Code:
        drawn.append(d)
        return points.Code((0, 0, 0), 1) if len(drawn) == 1 else true_hash(d, generator)

    monkeypatch.setattr(points, "_mixed_radix", lambda cells: None)
    monkeypatch.setattr(points, "_hash", first_a_bad_one)
    assert torch.allclose(Lattice(values).filter(channels), numbered, atol=1e-12)
    assert len(drawn) == 4


@pytest.mark.parametrize("d", DIMENSIONS)
def test_a_neighbours_neighbour_before_is_the_point_itself(d: int) -> None:
    found = find_points(enclosing_simplices(features(d, 300, spread=1)))
    m = len(found.first)
    for direction in range(d + 1):
        there = (found.after[direction] < m).nonzero().flatten()
        assert len(there) > 0
        assert torch.equal(found.before[direction, found.after[direction, there]], there)
        assert int((found.before[direction] < m).sum()) == len(there)


def test_a_feature_on_a_lattice_point_among_many_hears_itself_once() -> None:
    values = grid(41, 41, sigma=4.0) - 5.0  # feature 20 * 41 + 20 is the origin
    impulse = torch.zeros(41 * 41, 1, dtype=torch.float64)
    impulse[20 * 41 + 20] = 1
    assert Lattice(values).filter(impulse)[20 * 41 + 20].item() == pytest.approx(1.0)


@pytest.mark.parametrize("d", DIMENSIONS)
def test_a_constant_stays_constant_where_row_sums_are_divided_out(d: int) -> None:
    values = features(d, 300)
    lattice = Lattice(values)
    ones = torch.ones(300, 1, dtype=torch.float64)
    inverse = 1 / lattice.filter(ones)[:, 0]
    assert torch.allclose(lattice.scaled(None, inverse).filter(7 * ones), 7 * ones)


def test_factors_before_and_after_are_those_of_a_product_of_matrices() -> None:
    values = features(3, 50)
    before, after = torch.rand(2, 50, dtype=torch.float64)
    kernel = Lattice(values).filter(torch.eye(50, dtype=torch.float64))
    scaled = Lattice(values).scaled(before, after).filter(torch.eye(50, dtype=torch.float64))
    assert torch.allclose(scaled, after[:, None] * kernel * before)


@pytest.mark.parametrize(
    ("d", "spread", "tolerance"), [(1, 20.0, 0.03), (2, 6.0, 0.03), (3, 3.0, 0.05), (5, 1.0, 0.1), (6, 0.7, 0.1)]
)
def test_the_filter_is_nearly_gaussian(d: int, spread: float, tolerance: float) -> None:
    """Of values in [0, 1], means weighted by the lattice's kernel and by the Gaussian differ by at most this."""
    generator = torch.Generator().manual_seed(0)
    values = spread * torch.rand(d, 2000, dtype=torch.float64, generator=generator)
    wave = torch.stack([torch.ones(2000, dtype=torch.float64), (values[0] / 2).sin() / 2 + 0.5], dim=1)
    gaussian = torch.exp(-0.5 * torch.cdist(values.T, values.T) ** 2) @ wave
    filtered = Lattice(values).filter(wave)
    difference = filtered[:, 1] / filtered[:, 0] - gaussian[:, 1] / gaussian[:, 0]
    assert difference.abs().max() < tolerance


def test_equal_features_share_their_points_and_a_single_one_is_enough() -> None:
    one = torch.full((5, 1), 0.3)
    assert Lattice(one.expand(5, 100)).num_points == Lattice(one).num_points == 6
    assert Lattice(one).filter(torch.ones(1, 2)).shape == (1, 2)


def test_results_do_not_depend_on_repetition_or_threads() -> None:
    values = features(5, 4000).float()
    channels = torch.rand(4000, 21)
    threads = torch.get_num_threads()
    try:
        results = []
        for number in (1, 2, 2, 4):
            torch.set_num_threads(number)
            results.append(Lattice(values).filter(channels))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(result, results[0]) for result in results)


@pytest.mark.gpu
def test_cuda_filters_like_the_cpu_and_the_same_each_time() -> None:
    values, channels = features(5, 20_000).float(), torch.rand(20_000, 21)
    on_cpu = Lattice(values).filter(channels)
    on_cuda = [Lattice(values.cuda()).filter(channels.cuda()) for _ in range(3)]
    assert all(torch.equal(result, on_cuda[0]) for result in on_cuda)
    assert torch.allclose(on_cuda[0].cpu(), on_cpu, rtol=1e-3, atol=1e-3)
