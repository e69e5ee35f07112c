"""Parts that learn later."""

import pytest
from torch import nn

from segtrain.engine.freezing import FreezeSchedule
from segtrain.errors import ConfigError


def model() -> nn.Module:
    parts = {name: nn.Sequential(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1)) for name in ("backbone", "decoder")}
    return nn.ModuleDict(parts)


def learning(module: nn.Module) -> list[bool]:
    return [any(parameter.requires_grad for parameter in part.parameters()) for part in module.children()]


def test_a_part_learns_from_its_step_on_and_its_norms_stand_still_before() -> None:
    net = model()
    schedule = FreezeSchedule(net, {"backbone": 3})
    assert schedule.apply(0)
    assert learning(net) == [False, True]
    assert [part[1].training for part in net.children()] == [False, True]
    assert not schedule.apply(2)
    assert schedule.apply(3)
    assert learning(net) == [True, True]
    assert [part[1].training for part in net.children()] == [True, True]


def test_a_run_resumed_behind_the_step_is_not_frozen_at_all() -> None:
    net = model()
    assert not FreezeSchedule(net, {"backbone": 3}).apply(5)
    assert learning(net) == [True, True]


def test_what_the_model_froze_for_good_stays_frozen() -> None:
    net = model()
    net["backbone"][0].requires_grad_(False)
    schedule = FreezeSchedule(net, {"backbone": 1})
    schedule.apply(0)
    schedule.apply(1)
    assert not net["backbone"][0].weight.requires_grad
    assert net["backbone"][1].weight.requires_grad


def test_a_part_inside_another_waits_for_both() -> None:
    net = model()
    schedule = FreezeSchedule(net, {"backbone": 1, "backbone.0": 2})
    schedule.apply(0)
    schedule.apply(1)
    assert (net["backbone"][0].weight.requires_grad, net["backbone"][1].weight.requires_grad) == (False, True)


@pytest.mark.parametrize(
    ("until", "message"),
    [
        ({"backbon": 3}, "trainer.freeze: the model has no part 'backbon'; did you mean 'backbone'?"),
        ({"backbone": 0}, "trainer.freeze.backbone=0: give the number of steps"),
        ({"backbone": 3, "decoder": 3}, "leaves no parameter to train at first"),
    ],
)
def test_what_cannot_be_frozen_is_named(until: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        FreezeSchedule(model(), until)
    assert message in str(caught.value)
