"""Hydra's and OmegaConf's complaints, said in one line that names the key, the value and the nearest right name."""

import difflib
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationResolutionError, MissingMandatoryValue, OmegaConfBaseException

from segtrain.errors import ConfigError, SegtrainError, nearest

# What composing and reading a config raise. Hydra also raises ValueError (a group set to a number) and OSError.
CONFIG_ERRORS = (HydraException, OmegaConfBaseException, yaml.YAMLError)


@dataclass(frozen=True)
class Surroundings:
    """What a message may point to.

    Attributes:
        config: composes the config in which a key was looked for; called only when a key is unknown.
        groups: group -> its options.
        overrides: the user's own words.
        more_keys: keys that exist beside `config`.
    """

    config: Callable[[], DictConfig]
    groups: dict[str, dict[str, Path]]
    overrides: Sequence[str] = ()
    more_keys: tuple[str, ...] = ()


def explain(error: Exception, around: Surroundings) -> SegtrainError:
    """`error` as a ConfigError in one line; one of segtrain's own stays as it is."""
    if isinstance(error, SegtrainError):
        return error
    if isinstance(error, OverrideParseException):
        return ConfigError(_explain_syntax(error.override, str(error), around))
    if isinstance(error, MissingConfigException):
        return ConfigError(_explain_missing_config(error, around))
    if isinstance(error, OmegaConfBaseException):
        return ConfigError(_explain_value(error, around))
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        mark = error.problem_mark
        return ConfigError(f"{mark.name!s}, line {mark.line + 1}: not valid YAML: {error.problem}")
    return ConfigError(_explain_composition(error, around))


def check_complete(config: DictConfig) -> None:
    """Raises ConfigError naming every key of `config` that still is `???`."""
    missing = sorted(OmegaConf.missing_keys(config))
    if missing:
        have = "have" if len(missing) > 1 else "has"
        raise ConfigError(f"{', '.join(missing)} {have} no value: set {' '.join(f'{key}=...' for key in missing)}")


def explain_unknown_key(key: str, around: Surroundings) -> str:
    """`no config key ...`, with the key most probably meant."""
    config = around.config()
    keys = [*key_paths(config), *around.more_keys]
    return f"no config key {key!r}{_meant(key, keys, around.groups)}"


def _meant(key: str, keys: Sequence[str], groups: Iterable[str]) -> str:
    """`"; did you mean ...?"`: the same last name elsewhere, else a like name on the same level, else a like one."""
    level, _, last = key.rpartition(".")
    nodes_of_groups = {group.replace("/", ".") for group in groups}
    known = [*groups, *(path for path in keys if path not in nodes_of_groups)]
    homonyms = [path for path in known if _last_name(path) == last and path != key]
    if homonyms:
        likest = difflib.get_close_matches(key, homonyms, n=3, cutoff=0)  # more than three are no help
        return f"; did you mean {' or '.join(map(repr, likest))}?"
    level_names = {path.rpartition(".")[2]: path for path in known if path.rpartition(".")[0] == level}
    names = {_last_name(path): path for path in reversed(known)}
    for candidates, cutoff in ((level_names, 0.6), (names, 0.7)):
        if match := difflib.get_close_matches(last, candidates, n=1, cutoff=cutoff):
            return f"; did you mean {candidates[match[0]]!r}?"
    return ""


def _last_name(path: str) -> str:
    return re.split(r"[./]", path)[-1]


def key_paths(config: DictConfig, prefix: str = "") -> Iterator[str]:
    """The dotted path of every key of `config` and of the mappings in it; nothing is resolved."""
    for name, value in config.items_ex(resolve=False):
        path = f"{prefix}{name!s}"
        yield path
        if isinstance(value, DictConfig) and not (value._is_none() or value._is_missing() or value._is_interpolation()):
            yield from key_paths(value, f"{path}.")


def _explain_syntax(override: str, message: str, around: Surroundings) -> str:
    if "=" not in override and not override.startswith("~"):
        owners = [group for group, options in around.groups.items() if override in options]
        hint = f"; did you mean {owners[0]}={override}?" if owners else ": write KEY=VALUE or GROUP=OPTION"
        return f"{override!r} is not an override{hint}"
    problem = message.splitlines()[0]
    return f"{override!r}: {problem}; quote what holds spaces, commas or brackets: key='\"text\"'"


def _explain_missing_config(error: MissingConfigException, around: Surroundings) -> str:
    name = error.missing_cfg_file or ""
    place = re.match(r"In '([^']+)'", str(error))
    group, _, option = name.rpartition("/")
    if group not in around.groups:
        if place is None:
            return f"--config-name {name}: no such config in segtrain or in --config-dir"
        return f"{place[1]}.yaml: its defaults name {name!r}, and there is no such config"
    known = list(around.groups[group])
    chosen_by_user = any(re.fullmatch(rf"\+?{group}=.*", word) for word in around.overrides)
    where = "" if place is None or chosen_by_user else f"{place[1]}.yaml: "
    return f"{where}{group}={option}: no such option{nearest(option, known)} (there are: {', '.join(known)})"


def _explain_value(error: OmegaConfBaseException, around: Surroundings) -> str:
    key, first_line = error.full_key or "", str(error).splitlines()[0]
    if isinstance(error, MissingMandatoryValue):
        given = [word.partition("=")[0] for word in around.overrides]
        misspelt = difflib.get_close_matches(key, [word for word in given if word not in around.groups], n=1)
        hint = f" (is {misspelt[0]!r} meant to be it?)" if misspelt and misspelt[0] != key else ""
        return f"{key} has no value: set {key}=...{hint}"
    if isinstance(error, InterpolationResolutionError):
        target = re.search(r"Interpolation key '([^']+)' not found", first_line)
        if target is not None:
            hint = _meant(target[1], list(key_paths(around.config())), ())
            return f"{key}: it refers to ${{{target[1]}}}, which does not exist{hint}"
    return f"{key}: {first_line}" if key else first_line


def _explain_composition(error: Exception, around: Surroundings) -> str:
    message = str(error)
    if found := re.search(r"Could not override '([^']+)'\. No match in the defaults list", message):
        return _explain_unused_group(found[1], around)
    if found := re.search(r"Could not (?:override|delete from config\.) '([^']+)'", message):
        add = re.search(r"append to your config use (\S+)", message)
        also = f" (a new key is written {add[1]})" if add and "/" not in found[1] else ""
        return f"{explain_unknown_key(found[1], around)}{also}"
    if found := re.search(r"Ambiguous value for argument '(.*)'", message):
        key, _, value = found[1].partition("=")
        return f"{found[1]!r} names several values: -m runs one job for each; a list is written {key}=[{value}]"
    if found := re.search(r"Sweep parameters '(.*)' requires --multirun", message):
        return f"{found[1]!r} names several values: add -m to run one job for each"
    if found := re.search(r"An item is already at '([^']+)'", message):
        return f"{found[1]} exists already: write {found[1]}=... without the +"
    if found := re.search(r"looks like a config group override, but config group '([^']+)'", message):
        return f"no config group {found[1]!r}{nearest(found[1], around.groups)}"
    if found := re.search(r"You must specify '([^']+)'", message):
        return f"choose {found[1]}=... out of: {', '.join(around.groups.get(found[1], ()))}"
    if "Config group override must be a string" in message:
        word = next(filter(lambda word: _names_no_option(word, around.groups), around.overrides), "a group")
        options = ", ".join(around.groups.get(word.partition("=")[0].lstrip("+"), ()))
        return f"{word}: the value must be the name of one of its options ({options})"
    if found := re.search(r"Error merging override (.*)", message):
        return f"{found[1]}: {_one_line(error.__cause__ or error)}"
    return _one_line(error)


def _names_no_option(word: str, groups: Iterable[str]) -> bool:
    """Whether the override gives a group something that YAML does not read as a text: `model=null`, `data=3`."""
    key, _, value = word.partition("=")
    return key.lstrip("+") in groups and not isinstance(yaml.safe_load(value), str | list)


def _explain_unused_group(group: str, around: Surroundings) -> str:
    parent, _, name = group.rpartition("/")
    if not parent:
        return f"group {group!r} is not part of this config; where a command has a use for it, write +{group}=..."
    chosen = next((word for word in around.overrides if word.startswith(f"{parent}=")), f"the chosen {parent}")
    return f"{group}: {chosen} has no {name} to choose"


def _one_line(error: Any) -> str:
    causes = [str(error), str(error.__cause__ or "")]
    lines = [line.strip() for cause in causes for line in cause.splitlines() if line.strip()]
    shown = [line for line in lines if not re.match(r"(full_key|object_type|reference_type|See https?):?", line)]
    return "; ".join(dict.fromkeys(shown)) or type(error).__name__
