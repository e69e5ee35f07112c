"""Configs that are data, and that overrides are applied to: out of a checkpoint (checked) or a run directory.

A run directory's config.yaml is a file of the user's own, like any config. What comes out of a checkpoint may come from
a stranger: `check_plain` looks at it first.

A stored config never goes through Hydra, whose launchers, callbacks and resolvers would act on it. What the user adds
on the command line is the user's own: the options it chooses are composed from segtrain's own YAML.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.override_parser.types import Override, OverrideType, ValueType
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from segtrain.compose import Job, chosen_options, config_loader
from segtrain.config_tree import find_groups, shipped_configs
from segtrain.errors import CheckpointError, ConfigError, nearest
from segtrain.explain import CONFIG_ERRORS, Surroundings, explain

PLAIN_INTERPOLATION = re.compile(
    r"\$\{\s*\.*[A-Za-z_][\w.\[\]-]*\s*\}"  # ${data.crop_size}, ${.width}, ${model.channels[0]}
    r"|\$\{\s*oc\.env:\s*\w+\s*(,[^${}]*)?\}"  # ${oc.env:NAME}, ${oc.env:NAME,default}
)
# A pickle can make a tree of a few hundred bytes that has 2^30 leaves.
MOST_NODES, MOST_LEVELS = 20_000, 30
OVERRIDE_TYPES = {
    "": OverrideType.CHANGE,
    "+": OverrideType.ADD,
    "++": OverrideType.FORCE_ADD,
    "~": OverrideType.DEL,
}


def check_plain(saved: Mapping[str, Any]) -> None:
    """Accept references to other keys and to environment variables, and nothing else that OmegaConf would evaluate.

    Raises:
        CheckpointError: a value, or a key, holds another resolver, a reference that cannot be read, or several of
            them (which could multiply without end); or the config is larger or deeper than any config is.
    """
    for number, (path, depth, value) in enumerate(_nodes(saved, "", 0)):
        if number > MOST_NODES or depth > MOST_LEVELS:
            raise CheckpointError(f"the stored config has over {MOST_NODES} values or {MOST_LEVELS} levels; not read")
        if not isinstance(value, str):
            continue
        if value.count("${") > 1 or "${" in PLAIN_INTERPOLATION.sub(" ", value):
            raise CheckpointError(
                f"the stored config's {path} is {value!r}: only one reference such as ${{a.b}} or ${{oc.env:NAME}}"
                " is accepted out of a checkpoint"
            )


def _nodes(node: Any, path: str, depth: int) -> Iterator[tuple[str, int, Any]]:
    """Everything in `node`, keys included, each with its dotted path and its level."""
    yield path, depth, node
    if depth > MOST_LEVELS:
        return
    if isinstance(node, Mapping):
        for key, value in node.items():
            inner = f"{path}.{key}" if path else str(key)
            yield inner, depth, str(key)
            yield from _nodes(value, inner, depth + 1)
    elif isinstance(node, list | tuple):
        for index, value in enumerate(node):
            yield from _nodes(value, f"{path}[{index}]", depth + 1)


def apply_overrides(saved: Mapping[str, Any] | DictConfig, job: Job) -> tuple[DictConfig, dict[str, str]]:
    """`job.saved_overrides` on top of `saved`: first the groups, each composed afresh, then the values in their order.

    `data=voc` replaces the whole node `data` by the option's own values. `a.b=1` must exist, `+a.b=1` must not,
    `++a.b=1` does either, and `~a.b` deletes, all as in Hydra.

    Returns:
        The config, unresolved and closed to unknown keys, and what was chosen afresh, options inside options included:
        group -> option.

    Raises:
        ConfigError: an unknown key, group or option, or a value that does not fit.
    """
    config = saved.copy() if isinstance(saved, DictConfig) else OmegaConf.create(dict(saved))
    _complete(config)
    OmegaConf.set_struct(config, True)
    groups = find_groups(job.config_dir)
    around = Surroundings(lambda: config, groups, job.overrides, job.own_keys)
    wanted, values = {}, []
    for key, value in job.saved_overrides:
        group = key.lstrip("+")
        # As in Hydra, a mapping for a group's name is no choice but is merged into its node.
        if (group in groups or "/" in group) and not isinstance(value, dict):
            wanted[group] = _checked_option(group, value, groups)
        else:
            values.append(_override(key, value))
    choices: dict[str, str] = {}
    try:
        if wanted:
            options, choices = _compose_options(wanted, job)
            _replace_nodes(config, wanted, options)
        ConfigLoaderImpl._apply_overrides_to_config(values, config)
    except (*CONFIG_ERRORS, ValueError) as error:
        raise explain(error, around) from error
    return config, choices


def choices_on_top(stored: Mapping[str, str], afresh: Mapping[str, str]) -> dict[str, str]:
    """A stored config's choices with those that `apply_overrides` made afresh.

    An option chosen afresh brings what is inside it: of the stored choices there, none is left.
    """
    kept = {group: option for group, option in stored.items() if not any(group.startswith(f"{new}/") for new in afresh)}
    return kept | dict(afresh)


# Sections whose keys an older segtrain did not all know: where their defaults stand.
_GROWN = {"trainer": "trainer/default.yaml", "data": "data/_defaults.yaml", "checkpoint": "train.yaml"}
_OF_THE_DATA_SET = ("in_channels",)  # in data/_defaults.yaml too, but an argument that not every data set takes


def _complete(config: DictConfig) -> None:
    """Gives `config` the keys it lacks because an older segtrain wrote it, with the defaults of today.

    A new key's default changes nothing.
    """
    if "trainer" not in config or "data" not in config:
        return  # no config of a training
    for section, file in _GROWN.items():
        defaults = OmegaConf.load(shipped_configs() / file)
        assert isinstance(defaults, DictConfig)
        values = defaults.get(section) if section in defaults else defaults
        if section not in config:
            config[section] = {}
        for key, value in values.items_ex(resolve=False):
            if key not in config[section] and key not in _OF_THE_DATA_SET:
                config[section][key] = value


def _override(key: str, value: Any) -> Override:
    """As Hydra's parser makes it from `key=value`; the value has been through that parser already."""
    name = key.lstrip("+~")
    prefix = key.removesuffix(name)
    return Override(OVERRIDE_TYPES[prefix], name, ValueType.ELEMENT, value, input_line=f"{key}={value}")


def _checked_option(group: str, option: Any, groups: Mapping[str, Mapping[str, Path]]) -> str:
    if group not in groups:
        raise ConfigError(f"no config group {group!r}{nearest(group, groups)}")
    if not isinstance(option, str):
        raise ConfigError(f"{group}={option}: the value must be the name of one of its options")
    path = groups[group].get(option)
    if path is not None and re.search(r"^# @package _global_", path.read_text(encoding="utf-8"), re.MULTILINE):
        raise ConfigError(
            f"{group}={option} sets keys all over the config and cannot be applied to a stored one:"
            " choose its parts (data=..., inference=...) instead"
        )
    return option


def _compose_options(wanted: Mapping[str, str], job: Job) -> tuple[DictConfig, dict[str, str]]:
    """The wanted options alone, at their groups' places, and every choice made on the way."""
    words = []
    for group, option in wanted.items():
        # An option inside another's defaults list (model/backbone in model) is chosen there; one alone is added.
        inside_another = any(group.startswith(f"{other}/") for other in wanted)
        words.append(f"{group}={option}" if inside_another else f"+{group}={option}")
    composed = config_loader(job.config_dir).load_configuration(None, words, RunMode.RUN)
    return composed, chosen_options(composed.hydra.runtime.choices)


def _replace_nodes(config: DictConfig, wanted: Mapping[str, str], options: DictConfig) -> None:
    for group in sorted(wanted):  # model before model/backbone, which is inside it
        path = group.replace("/", ".")
        parent, _, name = path.rpartition(".")
        if parent and name not in (OmegaConf.select(config, parent) or ()):
            raise ConfigError(f"{group}={wanted[group]}: the stored {parent} has no {name} to choose")
        OmegaConf.update(config, path, OmegaConf.select(options, path), merge=False, force_add=True)
