"""Parameter groups: who learns at which rate, who decays, nobody twice."""

import pytest
import torch
from torch import nn

from segtrain.errors import ConfigError
from segtrain.optim import parameter_groups


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
        self.head = nn.Conv2d(4, 2, 1)


def groups_of(model, lr=0.1, weight_decay=0.01, backbone_lr_multiplier=1.0, decay_norm_and_bias=False):
    groups = parameter_groups(model, lr, weight_decay, backbone_lr_multiplier, decay_norm_and_bias)
    return {group["name"]: group for group in groups}


def test_norms_and_biases_are_apart_and_do_not_decay():
    model = Network()
    groups = groups_of(model)
    assert list(groups) == ["backbone", "backbone_no_decay", "decoder", "decoder_no_decay"]
    assert [group["weight_decay"] for group in groups.values()] == [0.01, 0.0, 0.01, 0.0]
    assert groups["backbone"]["params"] == [model.backbone[0].weight]
    norm = model.backbone[1]
    expected = [model.backbone[0].bias, norm.weight, norm.bias]
    assert all(a is b for a, b in zip(groups["backbone_no_decay"]["params"], expected, strict=True))


def test_norms_and_biases_decay_on_demand():
    groups = groups_of(Network(), decay_norm_and_bias=True)
    assert {name: group["weight_decay"] for name, group in groups.items()} == {"backbone": 0.01, "decoder": 0.01}


def test_backbone_learns_at_its_multiple():
    groups = groups_of(Network(), lr=0.1, backbone_lr_multiplier=0.5)
    assert [group["lr"] for group in groups.values()] == [0.05, 0.05, 0.1, 0.1]
    assert [group["initial_lr"] for group in groups.values()] == [0.05, 0.05, 0.1, 0.1]


def test_every_trainable_parameter_is_there_once_even_if_shared():
    model = Network()
    model.shared = model.backbone[0]
    model.head.bias.requires_grad_(False)
    listed = [id(parameter) for group in groups_of(model).values() for parameter in group["params"]]
    expected = {id(parameter) for parameter in model.parameters() if parameter.requires_grad}
    assert len(listed) == len(expected)
    assert set(listed) == expected


def test_model_without_backbone_has_one_part():
    assert list(groups_of(nn.Conv2d(3, 2, 1))) == ["model", "model_no_decay"]


def test_names_survive_in_the_optimizer_and_its_state():
    optimizer = torch.optim.AdamW(parameter_groups(Network(), 0.1, 0.01, 0.5, False), lr=0.1, weight_decay=0.01)
    assert [group["name"] for group in optimizer.state_dict()["param_groups"]] == list(groups_of(Network()))
    assert optimizer.param_groups[0]["lr"] == 0.05
    assert optimizer.param_groups[1]["weight_decay"] == 0.0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": 0.0}, "lr: 0.0"),
        ({"weight_decay": -1.0}, "weight_decay: -1.0"),
        ({"backbone_lr_multiplier": -1.0}, "backbone_lr_multiplier: -1.0"),
    ],
)
def test_values_out_of_range_are_named(options, message):
    with pytest.raises(ConfigError, match=message):
        groups_of(Network(), **options)


def test_multiplier_without_backbone_is_refused():
    with pytest.raises(ConfigError, match="Conv2d has no backbone"):
        groups_of(nn.Conv2d(3, 2, 1), backbone_lr_multiplier=0.1)


def test_frozen_model_is_refused():
    with pytest.raises(ConfigError, match="no trainable parameter"):
        groups_of(Network().requires_grad_(False))
