"""Schedules: equal to torch's own, and pure functions of the step."""

import pickle

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler

from segtrain.errors import ConfigError
from segtrain.optim import Constant, Cosine, Poly, Step

STEPS = 40
NO_WARMUP = {"max_steps": STEPS, "warmup_steps": 0, "warmup_factor": 0.1}
WARMUP = {"max_steps": STEPS, "warmup_steps": 10, "warmup_factor": 0.1}


def torch_factors(make_scheduler, steps=STEPS):
    """The learning rates that a torch scheduler sets, for a base of 1."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = make_scheduler(optimizer)
    factors = []
    for _ in range(steps):
        factors.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return factors


@pytest.mark.parametrize(
    ("schedule", "make_scheduler"),
    [
        (
            Poly(**NO_WARMUP, power=0.9, final_factor=0.0),
            lambda optimizer: lr_scheduler.PolynomialLR(optimizer, total_iters=STEPS, power=0.9),
        ),
        (
            Cosine(**NO_WARMUP, final_factor=0.05),
            lambda optimizer: lr_scheduler.CosineAnnealingLR(optimizer, T_max=STEPS, eta_min=0.05),
        ),
        (
            Step(**NO_WARMUP, milestones=[0.3, 0.7], gamma=0.1),
            lambda optimizer: lr_scheduler.MultiStepLR(optimizer, milestones=[12, 28], gamma=0.1),
        ),
        (
            Constant(**WARMUP),
            lambda optimizer: lr_scheduler.LinearLR(optimizer, start_factor=0.1, total_iters=10),
        ),
        (
            Cosine(**WARMUP, final_factor=0.0),
            lambda optimizer: lr_scheduler.SequentialLR(
                optimizer,
                [
                    lr_scheduler.LinearLR(optimizer, start_factor=0.1, total_iters=10),
                    lr_scheduler.CosineAnnealingLR(optimizer, T_max=STEPS - 10),
                ],
                milestones=[10],
            ),
        ),
    ],
    ids=["poly", "cosine", "step", "warmup", "warmup_cosine"],
)
def test_equals_torch(schedule, make_scheduler):
    assert [schedule(step) for step in range(STEPS)] == pytest.approx(torch_factors(make_scheduler), abs=1e-9)


def test_poly_by_hand_with_warmup_and_floor():
    schedule = Poly(max_steps=12, warmup_steps=2, warmup_factor=0.5, power=2.0, final_factor=0.2)
    assert [schedule(step) for step in (0, 1, 2, 7)] == pytest.approx([0.5, 0.75, 1.0, 0.2 + 0.8 * 0.25])


@pytest.mark.parametrize(
    "schedule",
    [
        Poly(**WARMUP, power=0.9, final_factor=0.0),
        Cosine(**WARMUP, final_factor=0.0),
        Step(**WARMUP, milestones=[0.5], gamma=0.1),
        Constant(**WARMUP),
    ],
    ids=lambda schedule: type(schedule).__name__,
)
def test_factors_stay_in_0_1_peak_after_warmup_and_do_not_depend_on_the_order_of_calls(schedule):
    forwards = [schedule(step) for step in range(STEPS)]
    backwards = [pickle.loads(pickle.dumps(schedule))(step) for step in reversed(range(STEPS))]
    assert forwards == backwards[::-1]
    assert all(0 <= factor <= 1 for factor in forwards)
    assert forwards[10] == 1
    assert forwards[9] < 1


def test_milestones_fall_on_the_nearest_step():
    schedule = Step(max_steps=100, warmup_steps=0, warmup_factor=0.1, milestones=[0.07], gamma=0.5)
    assert [schedule(6), schedule(7)] == [1, 0.5]  # 0.07 * 100 is slightly above 7 in floating point


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Constant(max_steps=10, warmup_steps=10, warmup_factor=0.1), "warmup_steps: 10"),
        (lambda: Constant(max_steps=10, warmup_steps=-1, warmup_factor=0.1), "warmup_steps: -1"),
        (lambda: Constant(max_steps=10, warmup_steps=0, warmup_factor=1.5), "warmup_factor: 1.5"),
        (lambda: Poly(**NO_WARMUP, power=0.0, final_factor=0.0), "power: 0.0"),
        (lambda: Poly(**NO_WARMUP, power=0.9, final_factor=2.0), "final_factor: 2.0"),
        (lambda: Cosine(**NO_WARMUP, final_factor=-0.1), "final_factor: -0.1"),
        (lambda: Step(**NO_WARMUP, milestones=[30], gamma=0.1), "step 30 of 40 write 0.75"),
        (lambda: Step(**WARMUP, milestones=[0.2], gamma=0.1), "after the warm-up"),
        (lambda: Step(**NO_WARMUP, milestones=[0.6, 0.3], gamma=0.1), "must ascend"),
        (lambda: Step(**NO_WARMUP, milestones=[0.6], gamma=10.0), "gamma: 10.0"),
    ],
)
def test_values_out_of_range_are_named(make, message):
    with pytest.raises(ConfigError, match=message):
        make()
