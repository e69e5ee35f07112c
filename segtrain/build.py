"""The only place that turns config into objects.

A `Builder` stands over one config. `check` looks at every section that will be needed and reports all that is wrong at
once; the other methods build one object each. The rooms below never see a config.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, get_args

from omegaconf import DictConfig, ListConfig, OmegaConf
from torch import nn
from torch.optim import LBFGS, Optimizer

from segtrain.construct import KNOWN_PACKAGES, Slot, find_class, fits, signature
from segtrain.data.augment import Augmentation
from segtrain.data.dataset import LabelledDataset
from segtrain.data.loader import LoaderOptions
from segtrain.data.statistics import pixel_counts
from segtrain.engine.checkpoint_folder import CheckpointOptions
from segtrain.engine.options import TrainerOptions
from segtrain.errors import ConfigError, DataError
from segtrain.inference.sliding import check_memory
from segtrain.inference.strategy import Strategy
from segtrain.losses import Criterion
from segtrain.losses.class_weights import Rule, class_weights
from segtrain.nn.normalize import Normalize
from segtrain.optim import Schedule, parameter_groups
from segtrain.options import (
    DataOptions,
    GroupOptions,
    RateOptions,
    RunOptions,
    as_fields,
    check_options,
    read_options,
)
from segtrain.transforms import build_transforms
from segtrain.types import DataFacts

if TYPE_CHECKING:
    from segtrain.models.adapt import ModelOptions

log = logging.getLogger("segtrain")

# What a section's object must be, and which arguments it is given besides those in the config.
SECTIONS: dict[str, tuple[type, tuple[str, ...]]] = {
    "model": (nn.Module, ("num_classes", "in_channels")),
    "data": (LabelledDataset, ("split",)),
    "loss": (nn.Module, ("num_classes", "ignore_index")),
    "optimizer": (Optimizer, ("params",)),
    "schedule": (Schedule, ("max_steps",)),
    "inference": (Strategy, ()),
}

# Sections that describe no object.
PLAIN: dict[str, type] = {"trainer": TrainerOptions, "checkpoint": CheckpointOptions}


def guests(section: str) -> tuple[type, ...]:
    """Whose keys stand in a section beside its `_target_`'s."""
    if section == "model":
        from segtrain.models.adapt import ModelOptions  # here: an exported model runs without any of segtrain.models

        return (ModelOptions,)
    return {"data": (LoaderOptions, DataOptions), "optimizer": (GroupOptions,)}.get(section, ())


class Builder:
    """Builds what one config describes.

    Args:
        config: composed; interpolations may be unresolved, and sections that are not asked for may be incomplete.
        trusted: None for a config of the user's own: any importable class. For a config out of a checkpoint, the
            packages its user trusts besides torch's, torchvision's, albumentations' and segtrain's own.
    """

    def __init__(self, config: DictConfig, trusted: Sequence[str] | None = None) -> None:
        self.config = config
        self.packages = None if trusted is None else (*KNOWN_PACKAGES, *trusted)

    def check(self, *sections: str) -> None:
        """Looks at the named sections before anything is read or built.

        Args:
            sections: those of `SECTIONS` and `PLAIN`, `augment.train`, `augment.evaluate`, and `run` for the keys
                outside of all sections.

        Raises:
            ConfigError: with one line for each thing that is wrong.
        """
        problems: list[str] = []
        for name in sections:
            try:
                problems += self._problems(name)
            except ConfigError as error:
                problems += str(error).splitlines()
        if problems:
            raise ConfigError("\n".join(dict.fromkeys(problems)))

    def _problems(self, name: str) -> list[str]:
        if name == "run":
            read_options(self.config, RunOptions)
            return []
        if name in PLAIN:
            return check_options(name, self.section(name), PLAIN[name])
        if name.startswith("augment."):
            self.augmentation(name.removeprefix("augment."), ignore_index=255)
            return []
        host, *others = self._split(name)
        problems = []
        for options, node in zip(guests(name), others, strict=True):
            problems += check_options(name, node, options)
        if name == "model":
            problems += _head_problems(others[0])
            if self.packages is None:  # a checkpoint's config has lost its weights, and may keep what was said of them
                problems += _idle_keys(others[0])
        if name == "optimizer":
            problems += check_options(name, _rates(host), RateOptions)
        return problems + self._slot(name, _with_weights_as_numbers(host)).check()

    def section(self, name: str) -> dict[str, Any]:
        """A section as plain values, interpolations resolved.

        Raises:
            omegaconf.errors.OmegaConfBaseException: a value is missing or an interpolation leads nowhere.
        """
        node = self.config.get(name)
        if not isinstance(node, DictConfig):
            raise ConfigError(f"{name}: the config has no such section; choose one by {name}=<name>")
        plain = OmegaConf.to_container(node, resolve=True, throw_on_missing=True)
        assert isinstance(plain, dict)
        section = {str(key): value for key, value in plain.items()}
        # A checkpoint brings its own weights: its config is no reason to read or download others.
        return section if self.packages is None else _without_weights(section)

    def trainer_options(self) -> TrainerOptions:
        return TrainerOptions(**self.section("trainer"))

    def checkpoint_options(self) -> CheckpointOptions:
        return CheckpointOptions(**as_fields(self.section("checkpoint")))

    def dataset(self, split: str) -> LabelledDataset:
        """The data set as read, without augmentation.

        Raises:
            DataError: it is not there, or empty.
        """
        dataset: LabelledDataset = self._slot("data", self._split("data")[0], split=split).build()
        if len(dataset) == 0:
            raise DataError(f"data={self._target('data')}: split {split!r} holds no image")
        return dataset.with_value_range(self.data_options().low_and_high)

    def loader_options(self) -> LoaderOptions:
        return LoaderOptions(**self._split("data")[1])

    def data_options(self) -> DataOptions:
        return DataOptions(**self._split("data")[2])

    def facts(self, dataset: LabelledDataset) -> DataFacts:
        """What the model must know of the data, and the checkpoint carries.

        Raises:
            ConfigError: the normalisation is not of the images' channels, or a binary task's classes are not two.
        """
        options = self.data_options()
        check_normalisation(options.mean, options.std, dataset.in_channels)
        return DataFacts(
            dataset.class_names,
            dataset.palette,
            dataset.ignore_index,
            dataset.in_channels,
            tuple(options.mean),
            tuple(options.std),
            options.threshold_for(dataset.class_names),
            options.low_and_high,
        )

    def augmentation(self, when: str, ignore_index: int) -> Augmentation:
        """The transforms of `augment.train` or `augment.evaluate`, in their order."""
        key = f"augment.{when}"
        try:
            return build_transforms(self.section("augment").get(when), ignore_index, key, self.packages)
        except ConfigError as error:
            lines = [self._with_references(line, key) for line in str(error).splitlines()]
            raise ConfigError("\n".join(lines)) from error

    def _with_references(self, line: str, key: str) -> str:
        """A line about a node in `key`, and which of the values it names come from elsewhere: (size: ${a.b})."""
        name = line.removeprefix(f"{key}.").partition(".")[0].partition(":")[0]
        node = OmegaConf.select(self.config, f"{key}.{name}")
        references = [
            f"{argument!s}: {value}"
            for argument, value in (node.items_ex(resolve=False) if isinstance(node, DictConfig) else ())
            if isinstance(value, str) and value.startswith("${") and f"{argument!s}=" in line
        ]
        return f"{line} ({', '.join(references)})" if references else line

    def model(self, facts: DataFacts, pretrained: bool, auxiliary: bool = True) -> nn.Module:
        """The model, with the weights the config names. Of a binary task it has one channel and shows two, [0, z].

        Args:
            facts: of the data.
            pretrained: False where a checkpoint's weights follow, so that none are downloaded first.
            auxiliary: False where it will only be evaluated, which has no use for auxiliary heads.
        """
        from segtrain.models.adapt import ModelOptions, adapt
        from segtrain.models.auxiliary import AuxiliaryOptions
        from segtrain.models.binary import give_two_logits

        host, guest = self._split("model")
        if not pretrained:
            host, guest = _without_weights(host), _without_weights(guest)
        model: nn.Module = self._slot(
            "model", host, num_classes=facts.num_outputs, in_channels=facts.in_channels
        ).build()
        options = ModelOptions(**guest)
        heads = {name: AuxiliaryOptions(**head) for name, head in options.aux.items()} if auxiliary else {}
        adapt(model, options, heads)
        if facts.foreground is not None:
            give_two_logits(model)
        return model

    def model_options(self) -> "ModelOptions":
        from segtrain.models.adapt import ModelOptions

        return ModelOptions(**self._split("model")[1])

    def normalize(self, facts: DataFacts) -> Normalize:
        return Normalize(facts.mean, facts.std)

    def criterion(self, facts: DataFacts, dataset: LabelledDataset | None, model: nn.Module) -> Criterion:
        """The loss, its class weights computed from `dataset` where the config names a rule.

        With `dataset` None such weights are placeholders: a checkpoint's `criterion` state follows. How much each
        auxiliary output of `model` counts, the model says (`aux_weights`).
        """
        node = self._split("loss")[0]
        rules = _weight_rules(node)
        if rules and dataset is not None:
            options = self.loader_options()
            skipped = options.skipped_items(dataset) if options.on_error == "skip" else None
            counts = pixel_counts(dataset, progress=True, skipped=skipped)
            computed = {rule: class_weights(rule, *counts) for rule in rules}
            for rule, weights in computed.items():
                rows = ", ".join(
                    f"{name} {weight:.3g}" for name, weight in zip(facts.class_names, weights, strict=True)
                )
                log.info("class weights (%s): %s", rule, rows)
        else:
            computed = dict.fromkeys(rules, [1.0] * facts.num_classes)
        node = _replace_rules(node, computed)
        loss = self._slot("loss", node, num_classes=facts.num_classes, ignore_index=facts.ignore_index).build()
        return Criterion(loss, getattr(model, "aux_weights", {}))

    def computes_class_weights(self) -> bool:
        """Whether the loss names a rule by which class weights are computed from the training set."""
        return bool(_weight_rules(self.section("loss")))

    def optimizer(self, model: nn.Module) -> Optimizer:
        host, guest = self._split("optimizer")
        try:
            groups = parameter_groups(model, **asdict(RateOptions(**_rates(host))), **guest)
        except ConfigError as error:
            raise ConfigError(f"optimizer.{error}") from None
        optimizer: Optimizer = self._slot("optimizer", host, params=groups).build()
        if isinstance(optimizer, LBFGS):
            raise ConfigError(
                "optimizer._target_=torch.optim.LBFGS evaluates the loss several times a step; take another"
            )
        return optimizer

    def schedule(self, max_steps: int) -> Schedule:
        schedule: Schedule = self._slot("schedule", self._split("schedule")[0], max_steps=max_steps).build()
        return schedule

    def strategy(self) -> Strategy:
        strategy: Strategy = self._slot("inference", self._split("inference")[0]).build()
        check_memory(strategy)
        return strategy

    def _target(self, name: str) -> str:
        return str(self.config[name].get("_target_"))

    def _slot(self, name: str, node: dict[str, Any], **provided: Any) -> Slot:
        base, given = SECTIONS[name]
        return Slot(name, node, base, dict.fromkeys(given) | provided, self.packages)

    def _split(self, name: str) -> list[dict[str, Any]]:
        """A section's node: the keys of its `_target_`, then those of each of its `guests`.

        A key that both know is the `_target_`'s: a model of the user's own may have a `norm` itself.
        """
        host = self.section(name)
        cls = find_class(host.get("_target_"), object, name, self.packages)
        own = {} if isinstance(cls, str) else signature(cls)[0]
        others = []
        for options in guests(name):
            names = [key for key in signature(options)[0] if key in host and key not in own]
            others.append({key: host.pop(key) for key in names})
        return [host, *others]


def _head_problems(options: Mapping[str, Any]) -> list[str]:
    """What is wrong with `model.aux`, a line each."""
    from segtrain.models.auxiliary import AuxiliaryOptions

    heads = options.get("aux", {})
    if not isinstance(heads, dict):
        return []  # reported as being no mapping
    problems = []
    for name, head in heads.items():
        key = f"model.aux.{name}"
        # A head becomes an attribute of a ModuleDict; a key called `weights` is where pretrained weights are named.
        if not str(name).isidentifier() or hasattr(nn.ModuleDict, str(name)) or name in ("training", "weights"):
            problems.append(f"{key}: a head cannot be called {name!r}; take another name, such as stage4")
        elif not isinstance(head, dict):
            problems.append(f"{key}={head!r} is no mapping with feature, head, weight and dropout")
        else:
            found = check_options(key, head, AuxiliaryOptions)
            problems += [problem if problem.startswith(key) else f"{key}.{problem}" for problem in found]
    return problems


def _idle_keys(options: Mapping[str, Any]) -> list[str]:
    """Keys that say something of `model.weights` where there are none."""
    idle = [key for key in ("weights_key", "weights_prefix") if options.get(key) is not None]
    return [] if options.get("weights") is not None else [f"model.{key}: set model.weights=FILE too" for key in idle]


def check_normalisation(mean: Any, std: Any, in_channels: int) -> None:
    """Raises ConfigError unless `data.mean` and `data.std` are one number for each channel, `data.std` positive."""
    for key, values in (("mean", mean), ("std", std)):
        if not fits(values, list[float]) or len(values) != in_channels:
            shown = list(values) if isinstance(values, tuple) else values
            raise ConfigError(f"data.{key}={shown}: {in_channels} value(s) needed, one for each channel")
    if min(std) <= 0:
        raise ConfigError(f"data.std={list(std)}: a standard deviation must be positive")


def saved_facts(facts: DataFacts) -> dict[str, Any]:
    """Facts as plain values, for a checkpoint."""
    return asdict(facts)


def facts_from(saved: Mapping[str, Any]) -> DataFacts:
    """The inverse of `saved_facts`."""
    return DataFacts(**{key: to_tuple(value) for key, value in saved.items()})


def to_tuple(value: Any) -> Any:
    """A list, and the lists in it, as tuples."""
    return tuple(map(to_tuple, value)) if isinstance(value, list | tuple | ListConfig) else value


def _rates(host: Mapping[str, Any]) -> dict[str, Any]:
    return {key: host[key] for key in signature(RateOptions)[0] if key in host}


def _weight_rules(node: Any) -> set[Any]:
    """The rules for class weights that stand anywhere in a loss node."""
    if not isinstance(node, dict):
        return set()
    own = {node["class_weights"]} if isinstance(node.get("class_weights"), str) else set()
    unknown = own - set(get_args(Rule))
    if unknown:
        raise ConfigError(
            f"loss.class_weights={unknown.pop()}: use null, {', '.join(get_args(Rule))}, "
            "or a list of one number per class"
        )
    return own.union(*map(_weight_rules, node.values()))


def _replace_rules(node: Any, computed: Mapping[Any, list[float]]) -> Any:
    if not isinstance(node, dict):
        return node
    return {
        key: computed[value] if key == "class_weights" and isinstance(value, str) else _replace_rules(value, computed)
        for key, value in node.items()
    }


def _with_weights_as_numbers(node: dict[str, Any]) -> dict[str, Any]:
    """A loss node whose rules are replaced by an empty list, so that types can be checked before data are read."""
    replaced: dict[str, Any] = _replace_rules(node, {rule: [] for rule in _weight_rules(node)})
    return replaced


def _without_weights(node: Any) -> Any:
    if isinstance(node, list):
        return [_without_weights(item) for item in node]
    if not isinstance(node, dict):
        return node
    return {key: None if key == "weights" else _without_weights(value) for key, value in node.items()}
