"""The learning-rate range test: its rates, its smoothing, what it reads off a curve, and when it ends."""

import math
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from segtrain.engine.rate_range import RangeOptions, RangeResult, landmarks, range_test, smooth
from segtrain.errors import ConfigError, NonFiniteError

OPTIONS = RangeOptions(min_lr=1e-4, max_lr=1e1, steps=11, smoothing=0.0, diverged=3.0)


def losses(*values: float) -> Any:
    """A training step that has these losses, one after the other; NaN ends it as a real one would."""
    given = iter(values)

    def step(batches: list[int], number: int) -> Any:
        value = next(given)
        if value != value:
            raise NonFiniteError("nan")
        return SimpleNamespace(loss=torch.tensor(value))

    return step


def numbers() -> Iterator[int]:
    yield from range(1000)


def test_rates_grow_by_one_factor_from_the_first_to_the_last() -> None:
    rates = [OPTIONS.rate(step) for step in range(OPTIONS.steps)]
    assert rates[0] == pytest.approx(1e-4)
    assert rates[-1] == pytest.approx(1e1)
    assert [rates[i + 1] / rates[i] for i in range(10)] == pytest.approx([10**0.5] * 10)


def test_smoothing_is_a_mean_under_a_gaussian() -> None:
    one, two = math.exp(-0.5), math.exp(-2.0)
    assert smooth([4.0, 0.0, 0.0], 1.0) == pytest.approx(
        [4 / (1 + one + two), 4 * one / (1 + 2 * one), 4 * two / (1 + one + two)]
    )
    assert smooth([3.0, 3.0, 3.0], 5.0) == pytest.approx([3.0, 3.0, 3.0])
    assert smooth([1.0, 5.0], 0.0) == [1.0, 5.0]


def test_smoothing_shifts_the_steepest_point_nowhere() -> None:
    rates = [10.0 ** (i / 10) for i in range(60)]
    curve = [1 / (1 + math.exp(i - 30)) for i in range(60)]
    assert landmarks(rates, smooth(curve, 4.0))[0] == pytest.approx(rates[30])


def test_landmarks_are_the_steepest_fall_and_the_lowest_point() -> None:
    rates = [1.0, 10.0, 100.0, 1000.0, 10000.0]
    # Slopes per decade at the inner points before the minimum: (3-5)/2, (2-4.9)/2.
    assert landmarks(rates, [5.0, 4.9, 3.0, 2.0, 9.0]) == (100.0, 1000.0)


@pytest.mark.parametrize("curve", [[1.0, 2.0, 3.0], [2.0, 1.0, 5.0], [1.0]])
def test_a_curve_that_does_not_fall_has_no_landmarks(curve: list[float]) -> None:
    assert landmarks([1.0, 10.0, 100.0][: len(curve)], curve) == (None, None)


def test_the_suggestion_is_the_smaller_of_the_steepest_and_a_tenth_of_the_minimum() -> None:
    assert RangeResult([], [], [], True, steepest=0.5, minimum=0.126).suggested == pytest.approx(0.013)
    assert RangeResult([], [], [], True, steepest=0.001, minimum=0.5).suggested == pytest.approx(0.001)
    assert RangeResult([], [], [], False, None, None).suggested is None


def test_the_test_ends_where_the_loss_exceeds_a_multiple_of_its_minimum() -> None:
    result = range_test(losses(2.0, 1.5, 1.0, 2.9, 3.1, 9.0), numbers(), 1, OPTIONS)
    assert result.losses == pytest.approx([2.0, 1.5, 1.0, 2.9, 3.1])
    assert result.diverged
    assert len(result.rates) == len(result.smoothed) == 5
    assert result.minimum == pytest.approx(OPTIONS.rate(2))


def test_a_loss_that_is_no_number_ends_the_test_and_is_left_out() -> None:
    result = range_test(losses(2.0, 1.5, float("nan")), numbers(), 1, OPTIONS)
    assert (result.losses, result.diverged) == ([2.0, 1.5], True)


def test_a_first_loss_that_is_no_number_is_no_matter_of_the_rate() -> None:
    with pytest.raises(NonFiniteError):
        range_test(losses(float("nan")), numbers(), 1, OPTIONS)


def test_a_test_that_reaches_the_last_rate_has_not_diverged() -> None:
    result = range_test(losses(*[3.0 - 0.1 * i for i in range(11)]), numbers(), 1, OPTIONS)
    assert not result.diverged
    assert result.rates[-1] == pytest.approx(10.0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"min_lr": 0.0}, "need 0 < min_lr < max_lr"),
        ({"max_lr": 1e-5}, "need 0 < min_lr < max_lr"),
        ({"steps": 9}, "steps=9 must be at least 10"),
        ({"smoothing": -1.0}, "smoothing=-1.0 must be at least 0"),
        ({"diverged": 1.0}, "diverged=1.0 must be greater than 1"),
    ],
)
def test_a_range_that_makes_no_sense_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        RangeOptions(**{**vars(OPTIONS), **changes})
