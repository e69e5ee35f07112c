"""`segtrain describe`: what a model sees, weighs and costs, before anything is trained."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Literal

import torch
from hydra.types import RunMode
from omegaconf import DictConfig

from segtrain import compose
from segtrain.analysis.description import Description, describe
from segtrain.analysis.table import compare_table, describe_table, times
from segtrain.build import Builder
from segtrain.compose import Job
from segtrain.config_tree import find_groups
from segtrain.errors import ConfigError, SegtrainError, nearest
from segtrain.explain import CONFIG_ERRORS, Surroundings, explain
from segtrain.options import read_options
from segtrain.types import DataFacts

DTYPES = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class DescribeOptions:
    """The command's own keys; `configs/describe.yaml` says what each does."""

    compare: list[str]
    size: list[int]
    batch_size: int
    precision: Literal["fp32", "bf16", "fp16"]
    num_classes: int
    in_channels: int
    format: Literal["table", "json"]
    debug: bool

    def __post_init__(self) -> None:
        if len(self.size) != 2 or min(self.size) < 1:
            raise ConfigError(f"size={self.size}: give height and width in pixels, such as size=[512,512]")
        for name in ("batch_size", "num_classes", "in_channels"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}={getattr(self, name)}: must be at least 1")

    def describe(self, config: DictConfig) -> Description:
        builder = Builder(config)
        builder.check("model")
        with torch.device("meta"):
            model = builder.model(DataFacts.of(self.num_classes, self.in_channels), pretrained=False)
        height, width = self.size
        return describe(model, self.in_channels, self.batch_size, (height, width), DTYPES[self.precision])

    def __str__(self) -> str:
        images = "1 image" if self.batch_size == 1 else f"{self.batch_size} images"
        return f"{images} of {times(*self.size)} x {self.in_channels}, {self.num_classes} classes, {self.precision}"


def run(argv: Sequence[str]) -> int:
    return compose.run_command("describe", argv, task)


def task(job: Job) -> None:
    known = ("model", *(field.name for field in fields(DescribeOptions)))
    for key in map(str, job.config):  # one that was added with a `+` would change nothing
        if key not in known:
            raise ConfigError(f"{key}: `describe` reads its own keys and those of the model only{nearest(key, known)}")
    options = read_options(job.config, DescribeOptions)
    if options.compare:
        _compare(job, options)
    else:
        _describe(job, options)


def _describe(job: Job, options: DescribeOptions) -> None:
    description, (model, backbone) = options.describe(job.config), _names(job.config, job.choices)
    if options.format == "json":
        print(json.dumps({"model": model, "backbone": backbone} | description.as_dict(), indent=2))
    else:
        print(f"{model}{f' over {backbone}' if backbone else ''}: {options}\n\n{describe_table(description)}")


def _compare(job: Job, options: DescribeOptions) -> None:
    """Composes all before it describes one, so that a misspelt name is told at once."""
    composed = [(entry, *_composed(job, entry)) for entry in options.compare]
    rows: list[tuple[str, str, Description]] = []
    for entry, config, choices in composed:
        try:
            rows.append((*_names(config, choices), options.describe(config)))
        except SegtrainError as error:
            raise ConfigError(f"compare={entry}: {error}") from error
    if options.format == "json":
        named = [{"model": model, "backbone": backbone} | one.as_dict() for model, backbone, one in rows]
        print(json.dumps(named, indent=2))
    else:
        print(f"{options}\n\n{compare_table(rows)}")


def _composed(job: Job, entry: str) -> tuple[DictConfig, dict[str, str]]:
    """The command's config with the model, and the backbone, that `entry` names in place of the chosen ones."""
    names = entry.split("/")
    if len(names) > 2 or not all(names):
        raise ConfigError(f"compare={entry}: write MODEL or MODEL/BACKBONE, such as unet/resnet50")
    chosen = [f"{group}={name}" for group, name in zip(("model", "model/backbone"), names, strict=False)]
    replaced = [word.partition("=")[0] for word in chosen]
    words = [word for word in job.overrides if word.partition("=")[0] not in replaced] + chosen
    loader = compose.config_loader(job.config_dir)

    def load(words: Sequence[str]) -> DictConfig:
        return loader.load_configuration("describe", list(words), RunMode.RUN)

    try:
        config = load(words)
    except (*CONFIG_ERRORS, ValueError) as error:
        around = Surroundings(lambda: load(chosen), find_groups(job.config_dir), words)
        raise ConfigError(f"compare={entry}: {explain(error, around)}") from error
    return config, compose.chosen_options(config.hydra.runtime.choices)


def _names(config: DictConfig, choices: Mapping[str, str]) -> tuple[str, str]:
    """Of the model and of its backbone, "" where the model has none to choose."""
    backbone = choices.get("model/backbone", "")
    if backbone == "timm":  # one option for hundreds of networks
        backbone = f"timm {config.model.backbone.name}"
    return choices.get("model", "custom"), backbone
