"""Stored configs: what they may hold, and how the user's overrides are applied to them."""

from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf

from segtrain.compose import Job
from segtrain.errors import CheckpointError, ConfigError
from segtrain.saved_config import apply_overrides, check_plain, choices_on_top

SAVED = {
    "seed": 0,
    "paint": {"coats": 2, "brush": {"width": 1}},
    "shape": {"size": 5, "layers": [1, 2]},
    "note": "${shape.size}",
}


def apply(
    paint_shop: Path, *overrides: tuple[str, Any], saved: dict[str, Any] | None = None
) -> tuple[Any, dict[str, str]]:
    job = Job(DictConfig({}), {}, (), overrides, ("checkpoint",), paint_shop)
    config, choices = apply_overrides(SAVED if saved is None else saved, job)
    return OmegaConf.to_container(config, resolve=False), choices


def test_a_value_replaces_the_stored_one_and_leaves_the_rest(paint_shop: Path):
    config, choices = apply(paint_shop, ("shape.size", 9), ("shape.layers", [3]))
    assert config == {**SAVED, "shape": {"size": 9, "layers": [3]}}
    assert choices == {}


def test_the_stored_config_itself_is_not_changed(paint_shop: Path):
    saved = OmegaConf.create(SAVED)
    apply_overrides(saved, Job(DictConfig({}), {}, (), (("seed", 5),), (), paint_shop))
    assert saved.seed == 0


def test_plus_adds_and_tilde_deletes(paint_shop: Path):
    config, _ = apply(paint_shop, ("+paint.gloss", {"on": True}), ("~note", None), ("++seed", 4))
    assert config["paint"]["gloss"] == {"on": True}
    assert "note" not in config
    assert config["seed"] == 4


def test_a_group_replaces_its_whole_node_by_the_options_own_values_unresolved(paint_shop: Path):
    config, choices = apply(paint_shop, ("paint", "red"))
    assert config["paint"] == {"brush": {"width": 1}, "coats": 2, "size": "${shape.size}", "tin": "???"}
    assert choices == {"paint": "red", "paint/brush": "flat"}


def test_groups_are_applied_before_values_whatever_their_order(paint_shop: Path):
    config, _ = apply(paint_shop, ("paint.tin", "large"), ("paint", "red"))
    assert config["paint"]["tin"] == "large"


def test_a_nested_group_replaces_only_its_own_node(paint_shop: Path):
    config, choices = apply(paint_shop, ("paint/brush", "round"))
    assert config["paint"] == {"coats": 2, "brush": {"width": 9}}
    assert choices == {"paint/brush": "round"}


def test_a_nested_group_is_chosen_inside_a_group_chosen_with_it(paint_shop: Path):
    config, _ = apply(paint_shop, ("paint/brush", "round"), ("paint", "red"))
    assert config["paint"]["brush"] == {"width": 9}
    assert config["paint"]["tin"] == "???"


def test_an_option_chosen_afresh_drops_the_stored_choices_inside_it() -> None:
    stored = {"paint": "blue", "paint/brush": "round", "paint/brush/hair": "goat", "painter": "ann"}
    afresh = {"paint": "red", "paint/brush": "flat"}
    assert choices_on_top(stored, afresh) == {"paint": "red", "paint/brush": "flat", "painter": "ann"}
    assert choices_on_top(stored, {"paint/brush": "flat"}) == {"paint": "blue", "paint/brush": "flat", "painter": "ann"}
    assert choices_on_top(stored, {}) == stored


@pytest.mark.parametrize(
    ("override", "said"),
    [
        (("shape.sise", 1), "no config key 'shape.sise'; did you mean 'shape.size'?"),
        (("chekpoint", "x"), "no config key 'chekpoint'; did you mean 'checkpoint'?"),
        (("~notes", None), "no config key 'notes'; did you mean 'note'?"),
        (("+seed", 1), "seed exists already"),
        (("paint", "bleu"), "paint=bleu: no such option; did you mean 'blue'?"),
        (("paint", 3), "paint=3: the value must be the name of one of its options"),
        (("paint/brsh", "flat"), "no config group 'paint/brsh'; did you mean 'paint/brush'?"),
        (("recipe", "bluish"), "recipe=bluish sets keys all over the config and cannot be applied to a stored one"),
    ],
)
def test_a_mistake_is_explained_with_the_nearest_right_name(paint_shop: Path, override: tuple[str, Any], said: str):
    with pytest.raises(ConfigError) as caught:
        apply(paint_shop, override)
    assert said in str(caught.value)


def test_a_nested_group_that_the_stored_config_lacks_is_refused(paint_shop: Path):
    with pytest.raises(ConfigError, match="paint/brush=flat: the stored paint has no brush to choose"):
        apply(paint_shop, ("paint/brush", "flat"), saved={"paint": {"coats": 3}})


@pytest.mark.parametrize(
    "text", ["plain", "${a.b}", "${.width}", "${..size}", "${a[0]}", "${oc.env:HOME}", "x/${oc.env:DATA,/a b}/y", "$5"]
)
def test_references_to_keys_and_environment_are_accepted(text: str):
    check_plain({"a": [{"b": text}]})


@pytest.mark.parametrize(
    "text",
    ["${now:%Y}", "${oc.decode:x}", "${oc.env:${a}}", "${${a}:x}", "${hydra:job}", "${a", "${oc.env:A,${eval:1}}"],
)
def test_any_other_interpolation_is_refused_with_its_key(text: str):
    with pytest.raises(CheckpointError, match=r"a\[0\]\.b is "):
        check_plain({"a": [{"b": text}]})


def test_interpolations_in_keys_are_refused_too():
    with pytest.raises(CheckpointError):
        check_plain({"${now:%Y}": 1})


def test_several_references_in_one_value_could_multiply_and_are_refused():
    with pytest.raises(CheckpointError, match="only one reference"):
        check_plain({"a": "x", "b": "${a}${a}"})


def test_a_small_pickle_that_unfolds_without_end_is_refused_at_once():
    wide: dict[str, object] = {}
    for _ in range(60):
        wide = {"x": wide, "y": wide}  # 2^60 leaves in memory of 60 dicts
    with pytest.raises(CheckpointError, match="levels"):
        check_plain(wide)
    endless: dict[str, object] = {}
    endless["self"] = endless
    with pytest.raises(CheckpointError, match="levels"):
        check_plain(endless)
