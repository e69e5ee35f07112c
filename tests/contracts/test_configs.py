"""Every YAML in configs/ composes, fits the signatures it names, and says what it is."""

from pathlib import Path

import pytest
from omegaconf import DictConfig

from segtrain.build import Builder
from segtrain.commands.assemble import SECTIONS
from segtrain.compose import Job, run_command
from segtrain.config_tree import find_groups, summary

OPTIONS = [
    (group, option, path)
    for group, options in find_groups().items()
    for option, path in options.items()
    if not group.startswith("hydra")
]
# What only the user can say.
NEEDED = {"voc": ["data.root=x"], "camvid": ["data.root=x"], "folder": ["data.root=x", "data.classes=[a,b]"]}
# Groups inside an option that is not chosen by itself.
HOSTS = {
    "inference/base": ["inference=multiscale"],
    "inference/base/base": ["inference=multiscale", "inference/base=multiscale"],
}


def compose(*overrides: str) -> DictConfig:
    composed = []

    def keep(job: Job) -> None:
        composed.append(job.config)

    assert run_command("train", overrides, keep) == 0
    return composed[0]


@pytest.mark.parametrize(("group", "option", "path"), OPTIONS, ids=[f"{g}={o}" for g, o, _ in OPTIONS])
def test_every_option_composes_and_fits_its_constructor(group: str, option: str, path: Path) -> None:
    needed = NEEDED.get("camvid" if option.startswith("camvid") else option, [])
    Builder(compose(*HOSTS.get(group, []), f"{group}={option}", *needed)).check(*SECTIONS)


@pytest.mark.parametrize(("group", "option", "path"), OPTIONS, ids=[f"{g}={o}" for g, o, _ in OPTIONS])
def test_every_option_says_what_it_is_and_how_to_use_it(group: str, option: str, path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert summary(path)
    assert "# segtrain " in text, "an example command line is missing"
