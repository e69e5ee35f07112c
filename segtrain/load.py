"""From a checkpoint file to a model that predicts; what `evaluate` and `predict` have in common."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from segtrain.build import Builder, facts_from
from segtrain.compose import Job
from segtrain.engine import checkpoint
from segtrain.engine.precision import choose_hardware
from segtrain.errors import CheckpointError
from segtrain.inference import Predictor
from segtrain.saved_config import apply_overrides, check_plain
from segtrain.types import DataFacts, Hardware


@dataclass(frozen=True)
class LoadedModel:
    """A checkpoint, its config with the command's overrides on top, and the model in it, ready to predict."""

    path: Path
    contents: dict[str, Any]
    builder: Builder
    facts: DataFacts
    hardware: Hardware
    predictor: Predictor


def load_model(job: Job, *sections: str) -> LoadedModel:
    """Reads `checkpoint=` and builds what it describes.

    Args:
        job: of a command with the keys `checkpoint` and `trust`.
        sections: of the config that will be needed besides the model.

    Raises:
        CheckpointError: the file cannot be read, or its weights do not fit the model that the config describes.
        ConfigError: the overrides are wrong, or the config names a class that is not trusted.
    """
    path = Path(job.config.checkpoint)
    contents = checkpoint.load(path)
    check_parts(contents, path, "config", "facts", "model", "criterion", "state")
    try:
        facts = facts_from(contents["facts"])
    except TypeError as error:
        raise CheckpointError(f"{path}: holds other facts of the data than this segtrain knows ({error})") from None
    saved = contents["config"]
    check_plain(saved)
    config, _ = apply_overrides(saved, job)
    builder = Builder(config, trusted=tuple(job.config.trust))
    builder.check("model", *sections)
    options = builder.trainer_options()
    hardware = choose_hardware(options.device, options.precision, options.channels_last)
    model = builder.model(facts, pretrained=False)
    load_weights(model, contents, path)
    model = model.to(hardware.device).to(memory_format=hardware.memory_format)
    normalize = builder.normalize(facts).to(hardware.device)
    predictor = Predictor(model, normalize, builder.strategy(), hardware)
    return LoadedModel(path, contents, builder, facts, hardware, predictor)


def check_parts(contents: dict[str, Any], path: Path, *names: str) -> None:
    """Raises CheckpointError unless the checkpoint holds a mapping under each name."""
    missing = [name for name in names if not isinstance(contents.get(name), dict)]
    if missing:
        raise CheckpointError(f"{path}: holds no {', '.join(missing)} of a training; was it written by segtrain train?")


def load_criterion(criterion: nn.Module, contents: dict[str, Any], path: Path) -> None:
    """A checkpoint's class weights into `criterion`, or a CheckpointError where it has others."""
    own, saved = criterion.state_dict(), contents["criterion"]
    if {name: value.shape for name, value in own.items()} != {name: value.shape for name, value in saved.items()}:
        raise CheckpointError(f"{path}: holds the class weights of another loss; leave out what changes the loss")
    criterion.load_state_dict(saved)


def load_weights(model: nn.Module, contents: dict[str, Any], path: Path) -> None:
    """A checkpoint's weights into `model`, or a CheckpointError that names what does not fit."""
    own, saved = model.state_dict(), contents["model"]
    missing = [name for name in own if name not in saved]
    extra = [name for name in saved if name not in own]
    unequal = [name for name in own if name in saved and own[name].shape != saved[name].shape]
    if missing or extra or unequal:
        first = (missing or extra or unequal)[0]
        choices = contents.get("choices", {})
        trained = " ".join(f"{group}={choices[group]}" for group in ("model", "model/backbone") if group in choices)
        raise CheckpointError(
            f"{path}: holds the weights of another model ({trained}): {len(missing)} tensors are missing, "
            f"{len(extra)} are left over, {len(unequal)} have another shape, such as {first}; "
            "leave out what changes the model"
        )
    model.load_state_dict(saved)
