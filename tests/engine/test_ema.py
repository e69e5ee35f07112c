"""Averaged weights, worked by hand."""

import contextlib

import pytest
import torch
from torch import nn

from segtrain.engine.ema import EMA


def model_of(value: float) -> nn.Module:
    model = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False), nn.BatchNorm2d(1))
    nn.init.constant_(model[0].weight, value)
    return model


def test_the_average_moves_by_one_minus_decay() -> None:
    model = model_of(1.0)
    ema = EMA(model, decay=0.75, warmup=1)
    nn.init.constant_(model[0].weight, 3.0)
    ema.update()
    assert ema.state_dict()["model"]["0.weight"].item() == pytest.approx(0.75 * 1 + 0.25 * 3)


def test_warm_up_forgets_the_first_updates_sooner() -> None:
    model = model_of(0.0)
    ema = EMA(model, decay=0.999, warmup=10)
    nn.init.constant_(model[0].weight, 1.0)
    ema.update()  # decay 2/11
    assert ema.state_dict()["model"]["0.weight"].item() == pytest.approx(9 / 11)
    ema.update()  # decay 3/12
    assert ema.state_dict()["model"]["0.weight"].item() == pytest.approx(0.25 * 9 / 11 + 0.75)


def test_running_statistics_are_averaged_and_counts_copied() -> None:
    model = model_of(1.0)
    ema = EMA(model, decay=0.5, warmup=1)
    model[1].running_mean.fill_(4.0)
    model[1].num_batches_tracked.fill_(7)
    ema.update()
    averages = ema.state_dict()["model"]
    assert averages["1.running_mean"].item() == 2.0
    assert averages["1.num_batches_tracked"].item() == 7


def test_the_model_has_the_averages_inside_and_its_own_bits_back_outside() -> None:
    model = model_of(0.1)
    ema = EMA(model, decay=0.9, warmup=1)
    nn.init.constant_(model[0].weight, 0.3)
    ema.update()
    own = {name: value.clone() for name, value in model.state_dict().items()}
    averages = {name: value.clone() for name, value in ema.state_dict()["model"].items()}
    with contextlib.suppress(RuntimeError), ema.in_model():
        assert all(torch.equal(value, averages[name]) for name, value in model.state_dict().items())
        raise RuntimeError("inside")
    assert all(torch.equal(value, own[name]) for name, value in model.state_dict().items())
    assert all(torch.equal(value, averages[name]) for name, value in ema.state_dict()["model"].items())


def test_it_goes_on_from_its_state() -> None:
    whole, part = model_of(0.0), model_of(0.0)
    first, second = EMA(whole, 0.9, 10), EMA(part, 0.9, 10)
    for value in (1.0, 2.0, 3.0):
        nn.init.constant_(whole[0].weight, value)
        first.update()
        if value < 3:
            nn.init.constant_(part[0].weight, value)
            second.update()
    state = {"model": {k: v.clone() for k, v in second.state_dict()["model"].items()}, "updates": second.updates}
    nn.init.constant_(part[0].weight, 3.0)
    resumed = EMA(part, 0.9, 10)
    resumed.load_state_dict(state)
    resumed.update()
    assert resumed.updates == 3
    assert torch.equal(resumed.state_dict()["model"]["0.weight"], first.state_dict()["model"]["0.weight"])
