"""The YAML tree as a person sees it: groups, their options, a line about each. Imports neither torch nor Hydra."""

import re
from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

from segtrain.errors import ConfigError


class Key(NamedTuple):
    """A key at the top level of a primary config, as it is written there."""

    name: str
    value: str
    comment: str


@cache
def shipped_configs() -> Path:
    """The folder of segtrain's own configs, `segtrain.configs`."""
    return Path(str(files("segtrain.configs")))


def find_groups(config_dir: Path | None = None) -> dict[str, dict[str, Path]]:
    """group -> option -> file, both sorted; `config_dir` holds the user's own.

    A group is a folder with YAML files, named by its path: `model`, `model/backbone`. Names that begin with `_` or `.`
    are parts of other configs, and `hydra` holds Hydra's own; none of them is shown.

    Raises:
        ConfigError: a file of `config_dir` has the name of one of segtrain's, which Hydra would silently prefer.
    """
    groups: dict[str, dict[str, Path]] = {}
    for folder in (shipped_configs(), *([config_dir] if config_dir else [])):
        for path in _yaml_files(folder):
            group, option = path.relative_to(folder).parent.as_posix(), path.stem
            if option in groups.get(group, {}):
                raise ConfigError(f"{path}: segtrain has a {group}={option} already; give yours another name")
            groups.setdefault(group, {})[option] = path
    return {group: dict(sorted(groups[group].items(), key=_natural_order)) for group in sorted(groups)}


def _natural_order(item: tuple[str, Path]) -> list[tuple[str, int]]:
    """resnet18 before resnet101."""
    return [(text, int(number or 0)) for text, number in re.findall(r"(\D*)(\d*)", item[0])]


def _yaml_files(folder: Path) -> Iterator[Path]:
    for path in folder.rglob("*.yaml"):
        parts = path.relative_to(folder).parts
        if len(parts) > 1 and parts[0] != "hydra" and not any(part.startswith(("_", ".")) for part in parts):
            yield path


def summary(path: Path) -> str:
    """The first sentence of the comment a YAML file begins with, or "" where it begins with none."""
    sentence = ""
    for line in path.read_text(encoding="utf-8").splitlines():
        text = line.removeprefix("#").strip()
        if text.startswith("@package"):
            continue
        if not line.startswith("#") or not text or text.startswith("segtrain "):
            break
        sentence = f"{sentence} {text}".strip()
    # A full stop ends the sentence before a capital letter, unless it belongs to an abbreviation.
    end = re.search(r"(?<!et al)(?<!e\.g)(?<!i\.e)(?<!cf)\.(?=\s+[A-Z]|$)", sentence)
    return sentence[: end.start()] if end else sentence


def primary_keys(config_name: str) -> tuple[Key, ...]:
    """The top-level keys of `configs/<config_name>.yaml`, in its order, without its defaults list."""
    text = (shipped_configs() / f"{config_name}.yaml").read_text(encoding="utf-8")
    found = re.findall(r"^([A-Za-z]\w*):[ \t]*(.*?)[ \t]*(?:#[ \t]*(.*))?$", text, re.MULTILINE)
    return tuple(Key(*groups) for groups in found if groups[0] not in ("defaults", "hydra"))


def default_options(config_name: str) -> dict[str, str]:
    """group -> the option that `configs/<config_name>.yaml` chooses, "null" where it chooses none."""
    text = (shipped_configs() / f"{config_name}.yaml").read_text(encoding="utf-8")
    return dict(re.findall(r"^[ \t]*- /?([\w/]+):[ \t]*(\S+)", text, re.MULTILINE))
