"""From a checkpoint, or an exported file, to a model that predicts; what `evaluate` and `predict` have in common."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from segtrain.build import Builder, check_normalisation, facts_from, to_tuple
from segtrain.compose import Job
from segtrain.data.dataset import LabelledDataset
from segtrain.data.labels import check_palette
from segtrain.engine import checkpoint, stripped
from segtrain.engine.precision import choose_hardware
from segtrain.errors import CheckpointError, ConfigError, DataError
from segtrain.export.described import CHECKPOINT, Interface, format_of
from segtrain.export.reading import read
from segtrain.inference import Predictor
from segtrain.losses import Criterion
from segtrain.options import check_threshold, check_value_range
from segtrain.saved_config import apply_overrides, check_plain, choices_on_top
from segtrain.types import DataFacts, Hardware


@dataclass(frozen=True)
class LoadedModel:
    """A checkpoint, its config with the command's overrides on top, and the model in it, ready to predict.

    Attributes:
        choices: config group -> option, of that config.
    """

    path: Path
    contents: dict[str, Any]
    choices: dict[str, str]
    builder: Builder
    facts: DataFacts
    hardware: Hardware
    predictor: Predictor


def load_model(job: Job, *sections: str) -> LoadedModel:
    """Reads `checkpoint=` and builds what it describes.

    Args:
        job: of a command with the keys `checkpoint`, `weights` and `trust`.
        sections: of the config that will be needed besides the model.

    Raises:
        CheckpointError: the file cannot be read, or its weights do not fit the model that the config describes.
        ConfigError: the overrides are wrong, or the config names a class that is not trusted.
    """
    path = Path(job.config.checkpoint)
    if format_of(path) is not None:
        return _load_exported(job, path, *sections)
    contents = stripped.load(path)
    check_parts(contents, path, *stripped.PARTS)
    check_average(contents, path)
    builder, facts, choices = _described(contents, path, job)
    builder.check("model", *sections)
    options = builder.trainer_options()
    hardware = choose_hardware(options.device, options.precision, options.channels_last)
    model = builder.model(facts, pretrained=False, auxiliary=False)
    own = model.state_dict()
    # Auxiliary heads served the training, and this model has none.
    saved_weights = stripped.inference_weights(contents, raw=job.config.weights == "raw")
    weights = {name: x for name, x in saved_weights.items() if name in own or not name.startswith("auxiliary.")}
    check_weights(model, contents | {"model": weights}, path)
    model.load_state_dict(weights)
    model = model.to(hardware.device).to(memory_format=hardware.memory_format)
    normalize = builder.normalize(facts).to(hardware.device)
    predictor = Predictor(model, normalize, builder.strategy(), hardware)
    return LoadedModel(path, contents, choices, builder, facts, hardware, predictor)


def _described(contents: dict[str, Any], path: Path, job: Job) -> tuple[Builder, DataFacts, dict[str, str]]:
    """A builder over the stored config with the command's overrides on top, the facts of the data, and the choices."""
    try:
        facts = facts_from(contents["facts"])
    except TypeError as error:
        raise CheckpointError(f"{path}: holds other facts of the data than this segtrain knows ({error})") from None
    saved = contents["config"]
    check_plain(saved)
    config, afresh = apply_overrides(saved, job)
    check_no_weights(job)
    stored = contents.get("choices")  # for names and words alone: a file without them, or with others, is as good
    names = {str(group): str(option) for group, option in stored.items()} if isinstance(stored, dict) else {}
    choices = choices_on_top(names, afresh)
    return Builder(config, trusted=tuple(job.config.trust)), _overridden(facts, config, job), choices


def _load_exported(job: Job, path: Path, *sections: str) -> LoadedModel:
    """The same of a file that `segtrain export` wrote, which brings its model with it: none is built."""
    data = checkpoint.read_bytes(path)
    file = read(data, path, torch.device("cpu"), job.config.trust)
    contents = stripped.plain_contents(file.metadata[CHECKPOINT], path)
    check_parts(contents, path, *(part for part in stripped.PARTS if part != "model"))
    inside = file.model.interface
    if inside.outputs == "labels":
        raise CheckpointError(
            f"{path}: gives labels and no scores, from which windows, scales and losses are computed; export it with "
            "outputs=logits"
        )
    _check_left_as_exported(job, inside)
    builder, facts, choices = _described(contents, path, job)
    builder.check(*sections)
    device = choose_hardware(builder.trainer_options().device, "fp32", channels_last=False).device
    model = (file if device.type == "cpu" else read(data, path, device, job.config.trust)).model
    hardware = Hardware(device, None, torch.contiguous_format, loss_scaling=False)
    normalize = nn.Identity() if inside.normalize else builder.normalize(facts).to(device)
    predictor = Predictor(model, normalize, builder.strategy(), hardware)
    return LoadedModel(path, contents, choices, builder, facts, hardware, predictor)


def _check_left_as_exported(job: Job, inside: Interface) -> None:
    """Raises ConfigError where the command line would change what is fixed in an exported file."""
    if job.config.weights != "average":
        raise ConfigError(f"weights={job.config.weights}: the exported file has one kind only; leave it out")
    for key, value in job.saved_overrides:
        name = key.lstrip("+~")
        if re.split(r"[./]", name)[0] == "model":
            raise ConfigError(f"{key}={value}: an exported model stays as it is; leave it out")
        if inside.normalize and name in ("data.mean", "data.std"):
            raise ConfigError(
                f"{key}={value}: the exported model normalises by its own; export it with normalize=false"
            )


def _overridden(facts: DataFacts, config: DictConfig, job: Job) -> DataFacts:
    """The facts, with those that the command line states itself (`data.mean=...`) in place of the checkpoint's."""
    stated = {
        key.lstrip("+").removeprefix("data.") for key, _ in job.saved_overrides if key.lstrip("+").startswith("data.")
    }
    known = ("mean", "std", "palette", "threshold", "value_range")
    changed = {name: to_tuple(config.data[name]) for name in known if name in stated}
    if "palette" in changed:
        changed["palette"] = check_palette(changed["palette"], facts.num_classes)
    task = "multiclass" if facts.threshold is None else "binary"
    if "task" in stated and config.data.task != task:
        raise ConfigError(f"data.task={config.data.task}: the checkpoint's model was trained for {task}; leave it out")
    if "threshold" in stated and facts.threshold is None:
        raise ConfigError(f"data.threshold={config.data.threshold}: only data.task=binary has one; leave it out")
    facts = replace(facts, **changed)
    check_value_range(facts.value_range)
    check_normalisation(facts.mean, facts.std, facts.in_channels)
    if "threshold" in stated or facts.threshold is not None:
        check_threshold(facts.threshold)
    return facts


def check_no_weights(job: Job) -> None:
    """Raises ConfigError where the command names weights, which a checkpoint brings itself."""
    for key, value in job.saved_overrides:
        if key.endswith(".weights") and key.lstrip("+").startswith("model.") and value is not None:
            raise ConfigError(f"{key}={value}: the weights are the checkpoint's own; leave it out")


def check_parts(contents: dict[str, Any], path: Path, *names: str) -> None:
    """Raises CheckpointError unless the checkpoint holds a mapping under each name."""
    missing = [name for name in names if not isinstance(contents.get(name), dict)]
    if missing:
        raise CheckpointError(f"{path}: holds no {', '.join(missing)} of a training; was it written by segtrain train?")
    for name in {"model", "criterion"} & set(names):
        if not all(isinstance(value, Tensor) for value in contents[name].values()):
            raise CheckpointError(f"{path}: {name} holds something else than tensors")
    if "state" in names and not isinstance(contents["state"].get("step"), int):
        raise CheckpointError(f"{path}: state holds no step")


def check_average(contents: dict[str, Any], path: Path) -> None:
    """Raises CheckpointError unless the moving average of the weights, where there is one, is a state dict."""
    if contents.get("ema") is not None:
        check_parts(contents, path, "ema")
        check_parts(contents["ema"], path, "model")


def open_split(loaded: LoadedModel) -> tuple[LabelledDataset, str]:
    """The data set to measure a checkpoint on, as evaluation sees it, and the name of its split.

    Raises:
        DataError: it is not there, or has other classes than the checkpoint.
    """
    builder, facts = loaded.builder, loaded.facts
    split = builder.data_options().val_split
    dataset = builder.dataset(split)
    if dataset.class_names != facts.class_names:
        raise DataError(
            f"the data's {_listed(dataset.class_names)} are not the checkpoint's {_listed(facts.class_names)}; "
            "choose the data it was trained on, or map labels to its classes by data.labels"
        )
    return dataset.with_transform(builder.augmentation("evaluate", facts.ignore_index), 0), split


def _listed(classes: Sequence[str]) -> str:
    return f"{len(classes)} classes ({', '.join(classes[:4])}{', ...' if len(classes) > 4 else ''})"


def build_criterion(
    builder: Builder,
    facts: DataFacts,
    contents: dict[str, Any],
    path: Path,
    dataset: LabelledDataset | None,
    model: nn.Module,
) -> Criterion:
    """The loss, with the class weights that a checkpoint holds where its own config says how they were computed.

    Args:
        builder: over the checkpoint's config with the command's overrides on top.
        facts: of the data.
        contents: of the checkpoint.
        path: of the checkpoint, for messages.
        dataset: the training set, to compute class weights by another rule than the checkpoint's; None: not there.
        model: says how much its auxiliary outputs count.

    Raises:
        ConfigError: another rule, and no training set.
        CheckpointError: the checkpoint's class weights do not fit its loss.
    """
    loss = builder.config.loss
    if not builder.computes_class_weights():
        return builder.criterion(facts, None, model)
    if OmegaConf.to_container(loss, resolve=False) != contents["config"]["loss"]:
        if dataset is None:
            raise ConfigError(
                "loss.class_weights: a rule needs the training set, which is not read here; give a list of numbers, "
                "or leave out what changes the loss"
            )
        return builder.criterion(facts, dataset, model)
    criterion = builder.criterion(facts, None, model)
    own, saved = criterion.state_dict(), contents["criterion"]
    if {name: value.shape for name, value in own.items()} != {name: value.shape for name, value in saved.items()}:
        raise CheckpointError(f"{path}: its class weights are not those of its loss")
    criterion.load_state_dict(saved)
    return criterion


def check_weights(model: nn.Module, contents: dict[str, Any], path: Path) -> None:
    """Raises a CheckpointError that names what does not fit unless the checkpoint's weights fit `model`."""
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
