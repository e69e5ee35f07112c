"""`segtrain list`: what there is of each kind, and how to add one's own. Imports neither torch nor Hydra."""

import re
from pathlib import Path
from typing import NamedTuple

from segtrain.config_tree import find_groups, summary
from segtrain.errors import ConfigError, nearest
from segtrain.terminal import split_config_dir


class Kind(NamedTuple):
    """A config group under the name people call it by, and an option of one's own as an example.

    Attributes:
        group: the config group.
        what: what one option is.
        yaml: a whole option of one's own.
        needs: what its class must be; empty where no class is needed.
    """

    group: str
    what: str
    yaml: tuple[str, ...]
    needs: str = "a class importable from the working directory, and "


KINDS = {
    "models": Kind(
        "model",
        "model",
        (
            "# My model, in one sentence (Me et al. 2026).",
            "defaults: [_defaults, {backbone: resnet18}, _self_]",
            "_target_: my_package.MyModel",
            "width: 64    # channels",
        ),
    ),
    "backbones": Kind(
        "model/backbone",
        "backbone",
        ("# My backbone, in one sentence.", "_target_: my_package.MyBackbone", "output_stride: 32"),
    ),
    "aux": Kind(
        "model/aux",
        "auxiliary classifier",
        ("# A lighter head on the third stage.", "defaults: [fcn]", "stage4: {feature: layer3, weight: 0.1}"),
        needs="",
    ),
    "data": Kind(
        "data",
        "data set",
        ("# Cells under the microscope.", "defaults: [folder]", "root: /data/cells", "classes: [background, cell]"),
        needs="",
    ),
    "augment": Kind(
        "augment",
        "augmentation",
        ("# The standard augmentation on larger crops.", "defaults: [standard]", "crop_size: [512, 512]"),
        needs="",
    ),
    "losses": Kind(
        "loss", "loss", ("# My loss, in one sentence.", "_target_: my_package.MyLoss", "gamma: 2.0    # >= 0")
    ),
    "optimizers": Kind(
        "optimizer",
        "optimizer",
        ("# RAdam with the other options of AdamW.", "defaults: [adamw]", "_target_: torch.optim.RAdam"),
        needs="",
    ),
    "schedules": Kind(
        "schedule",
        "learning-rate schedule",
        ("# My schedule, in one sentence.", "_target_: my_package.MySchedule", "power: 2.0"),
    ),
    "trainers": Kind(
        "trainer", "training loop", ("# Long and careful.", "defaults: [default]", "max_steps: 40000"), needs=""
    ),
    "inference": Kind(
        "inference", "way to predict", ("# Half-size pictures.", "defaults: [whole]", "scale: 0.5"), needs=""
    ),
    "experiments": Kind(
        "experiment",
        "complete recipe",
        ("# @package _global_", "defaults: [{override /model: unet}, {override /data: folder}]", "seed: 1"),
        needs="",
    ),
}


# Groups whose options are shown in the order of their papers: how FCN became DeepLab.
LINEAGES = ("model", "model/backbone")


def run(argv: list[str]) -> int:
    """Print the kinds, or the options of the one named. Raises ConfigError for an unknown kind."""
    config_dir, words = split_config_dir(argv)
    groups = find_groups(config_dir)
    kinds = {name: kind.group for name, kind in KINDS.items()}
    named = {kind.group for kind in KINDS.values()}
    kinds |= {group: group for group in groups if group not in named}  # groups the table does not know, the user's own
    if not words:
        _print_kinds(kinds, groups)
    elif len(words) > 1:
        raise ConfigError(f"list shows one kind at a time, got {' '.join(words)}")
    else:
        name = next((name for name, group in kinds.items() if words[0] in (name, group)), None)
        if name is None:
            known = [*kinds, *kinds.values()]
            raise ConfigError(f"unknown kind {words[0]!r}{nearest(words[0], known)} (there are: {', '.join(kinds)})")
        _print_options(kinds[name], groups.get(kinds[name], {}))
        print(_how_to_add(kinds[name]))
    return 0


def _print_kinds(kinds: dict[str, str], groups: dict[str, dict[str, Path]]) -> None:
    for name, group in kinds.items():
        print(f"{name:<12} {len(groups.get(group, {})):>3}   {group}=...")
    print("\nsegtrain list KIND shows each with a line about it, and how to add your own.")


def _print_options(group: str, options: dict[str, Path]) -> None:
    if not options:
        print(f"no {group} yet")
    width = max(map(len, options), default=0)
    summaries = {option: summary(path) for option, path in options.items()}
    if group in LINEAGES:
        summaries = dict(sorted(summaries.items(), key=lambda item: _first_shown(item[1])))
    for option, line in summaries.items():
        print(f"{option:<{width}}   {line}".rstrip())


def _first_shown(line: str) -> str:
    """The arXiv number of the paper that a summary names, which begins with year and month; last where it has none."""
    found = re.search(r"arXiv:(\d{4}\.\d+)", line)
    return found[1] if found else "9999"


def _how_to_add(group: str) -> str:
    kind = next((kind for kind in KINDS.values() if kind.group == group), None)
    if kind is None:
        return f"\nAdd your own: my_configs/{group}/mine.yaml, then --config-dir my_configs {group}=mine"
    lines = "\n".join(f"    {line}" for line in kind.yaml)
    return (
        f"\nAdd your own {kind.what}: {kind.needs}a YAML file in a folder of yours, my_configs/{group}/mine.yaml:\n\n"
        f"{lines}\n\nThen: segtrain train --config-dir my_configs {group}=mine"
    )
