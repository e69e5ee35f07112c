"""Config nodes are checked against constructor signatures before anything is built."""

import typing
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch import nn

from segtrain.construct import KNOWN_PACKAGES, Slot, describe, fits
from segtrain.errors import ConfigError


class Stem(nn.Module):
    def __init__(self, channels: int, in_channels: int) -> None:
        super().__init__()
        self.shape = (channels, in_channels)


class Net(nn.Module):
    """A model with everything a signature can say."""

    def __init__(self, stem: Stem, depth: int, rate: float, mode: Literal["sum", "max"], num_classes: int) -> None:
        super().__init__()
        if depth > 9:
            raise ValueError("depth above 9 makes no sense")
        if rate > 1:
            raise ConfigError(f"rate={rate} is above 1")
        self.stem, self.depth, self.num_classes = stem, depth, num_classes


HERE = __name__
STEM = {"_target_": f"{HERE}.Stem", "channels": 4}
NET = {"_target_": f"{HERE}.Net", "stem": STEM, "depth": 2, "rate": 1, "mode": "sum"}


def slot(packages: Sequence[str] | None = None, **changes: Any) -> Slot:
    return Slot("model", {**NET, **changes}, nn.Module, {"num_classes": 3, "in_channels": 1, "unused": 0}, packages)


def test_nested_nodes_are_built_and_provided_arguments_reach_those_that_take_them() -> None:
    net = slot().build()
    assert isinstance(net, Net)
    assert (net.num_classes, net.stem.shape) == (3, (4, 1))


def test_everything_that_is_wrong_is_said_at_once_with_its_key() -> None:
    problems = slot(depth="two", mode="mean", dept=1, stem={**STEM, "chanels": 3}).check()
    assert problems == [
        "model.depth='two' is not an int",
        "model.mode='mean' is not one of 'sum', 'max'",
        "model.dept: Net has no such option; did you mean 'depth'?",
        "model.stem.chanels: Stem has no such option; did you mean 'channels'?",
    ]


def test_a_missing_argument_is_named() -> None:
    node = {key: value for key, value in NET.items() if key != "depth"}
    assert Slot("model", node, nn.Module, {"num_classes": 3, "in_channels": 1}).check() == [
        "model.depth is missing: Net needs it"
    ]


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (None, "no dotted path"),
        ("Net", "no dotted path"),
        ("no_such_module.Net", "cannot be imported"),
        ("torch.nn.Conv2", "has no class Conv2; did you mean 'Conv2d'"),
        ("torch.load", "is no torch.nn.modules.module.Module"),
        ("torch.optim.SGD", "is no torch.nn.modules.module.Module"),
        ("os.system", "is no torch.nn.modules.module.Module"),
    ],
)
def test_a_target_that_is_no_class_of_the_slots_kind_is_refused(target: str | None, message: str) -> None:
    (problem,) = Slot("model", {"_target_": target}, nn.Module).check()
    assert message in problem
    assert problem.startswith("model._target_")


def test_a_nested_node_must_be_of_its_parameters_class() -> None:
    (problem,) = slot(stem={"_target_": "torch.nn.ReLU"}).check()
    assert problem.startswith("model.stem._target_=torch.nn.ReLU is no")


def test_a_checkpoints_config_names_known_packages_only() -> None:
    (problem,) = slot(packages=KNOWN_PACKAGES).check()
    assert "may only name classes of segtrain, torch.optim" in problem
    assert slot(packages=(*KNOWN_PACKAGES, HERE)).check() == []


def test_a_known_package_is_no_way_to_others_it_imports() -> None:
    # segtrain.construct imports pathlib.Path; naming it through segtrain must not help
    (problem,) = Slot("x", {"_target_": "segtrain.construct.Path"}, object, {}, KNOWN_PACKAGES).check()
    assert "leads to pathlib" in problem


def test_what_a_constructor_refuses_is_led_by_the_key() -> None:
    with pytest.raises(ConfigError, match=r"^model: Net refused its arguments: depth above 9"):
        slot(depth=10).build()
    with pytest.raises(ConfigError, match=r"^model\.rate=2 is above 1"):
        slot(rate=2).build()


@pytest.mark.parametrize(
    ("value", "annotation", "expected"),
    [
        (1, int, True),
        (True, int, False),
        (1, float, True),
        ("1", float, False),
        (None, int | None, True),
        ("x", int | None, False),
        ([1, 2], list[int], True),
        ([1, "2"], list[int], False),
        ([1, 2], tuple[int, int], True),
        ([1], tuple[int, int], False),
        ([1, 2, 3], tuple[int, ...], True),
        ([[1], [2]], Sequence[Sequence[int]], True),
        ({"a": 1}, dict[str, int], True),
        ({"a": "b"}, dict[str, int], False),
        ("max", Literal["max", "min"], True),
        (1, Literal["max"], False),
        ("x.pt", Path, True),
        (0.1, float | torch.Tensor, True),
        ("fast", float | torch.Tensor, False),
        ("anything", Any, True),
    ],
)
def test_types(value: Any, annotation: Any, expected: bool) -> None:
    assert fits(value, annotation) is expected


def test_types_are_described_in_words() -> None:
    assert describe(int | None) == "an int or null"
    assert describe(float | torch.Tensor) == "a number"
    assert describe(list[float]) == "a list, each a number"
    assert describe(tuple[int, int]) == "a list [an int, an int]"


@dataclass(frozen=True)
class Options:
    size: int


def test_dataclasses_are_checked_by_their_fields() -> None:
    assert Slot("o", {"_target_": f"{HERE}.Options", "size": "x"}, Options).check() == ["o.size='x' is not an int"]
    assert typing.get_type_hints(Options.__init__)["size"] is int
