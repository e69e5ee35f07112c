"""Config keys that describe no object: each section's as a dataclass, whose fields are the schema."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from keyword import iskeyword
from pathlib import Path
from typing import Any, Literal, TypeVar

from omegaconf import DictConfig, OmegaConf

from segtrain.construct import check_arguments, fits, signature
from segtrain.errors import ConfigError

Options = TypeVar("Options")


@dataclass(frozen=True)
class DataOptions:
    """The keys of `data` that are neither the data set's nor the loader's.

    The values here are what configs meant that were stored before there were these keys.

    Raises:
        ConfigError: `threshold` is outside (0, 1), or `value_range` is no two rising numbers.
    """

    train_split: str
    val_split: str
    mean: list[float]
    std: list[float]
    task: Literal["multiclass", "binary"] = "multiclass"
    threshold: float = 0.5
    value_range: list[float] | None = None

    def __post_init__(self) -> None:
        check_threshold(self.threshold)
        check_value_range(self.value_range)

    @property
    def low_and_high(self) -> tuple[float, float] | None:
        """`value_range` as the readers take it."""
        return None if self.value_range is None else (self.value_range[0], self.value_range[1])

    def threshold_for(self, classes: Sequence[str]) -> float | None:
        """The threshold of a binary task; None of another.

        Raises:
            ConfigError: the task is binary, and the data's classes are not two.
        """
        if self.task != "binary":
            return None
        if len(classes) != 2:
            raise ConfigError(
                f"data.task=binary has two classes, background and foreground, but the data has {len(classes)} "
                f"({', '.join(classes[:4])}{', ...' if len(classes) > 4 else ''}); name two in data.classes, the "
                "foreground last, or set data.task=multiclass"
            )
        return self.threshold


@dataclass(frozen=True)
class GroupOptions:
    """The keys of `optimizer` that are not the optimizer's; see `parameter_groups`."""

    backbone_lr_multiplier: float
    decay_norm_and_bias: bool


@dataclass(frozen=True)
class RateOptions:
    """The optimizer's own keys that the parameter groups need too, whatever its signature says of them."""

    lr: float
    weight_decay: float = 0.0


@dataclass(frozen=True)
class RunOptions:
    """The keys of a training that stand in no section."""

    seed: int
    run_dir: str | None
    output_root: str
    debug: bool

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**63:
            raise ConfigError(f"seed={self.seed} must be in [0, 2^63)")


@dataclass(frozen=True)
class MeasuringOptions:
    """The keys of a command that measures a saved model; `configs/evaluate.yaml` says what each does."""

    checkpoint: str
    weights: Literal["average", "raw"]
    output: str | None
    trust: list[str]
    debug: bool

    @property
    def folder(self) -> Path:
        """Where the user said, else the run's folder: the one above `checkpoints/`."""
        if self.output is not None:
            return Path(self.output)
        folder = Path(self.checkpoint).resolve().parent
        return folder.parent if folder.name == "checkpoints" else folder


def check_threshold(threshold: Any) -> None:
    """Raises ConfigError unless `data.threshold` is a probability that some pixels reach and others do not."""
    if not fits(threshold, float) or not 0 < threshold < 1:
        raise ConfigError(
            f"data.threshold={threshold} is no probability in (0, 1); 0.5 is customary, lower finds more foreground"
        )


def check_value_range(value_range: Any) -> None:
    """Raises ConfigError unless `data.value_range` is None or a low and a high number."""
    if value_range is None:
        return
    if not fits(value_range, list[float]) or len(value_range) != 2 or not value_range[0] < value_range[1]:
        given = list(value_range) if isinstance(value_range, tuple) else value_range
        raise ConfigError(
            f"data.value_range={given}: give the values that become 0 and 255, the lower first, such as [0, 65535]"
        )


def read_options(config: DictConfig, options: type[Options]) -> Options:
    """The top-level keys that the dataclass `options` names, as one of its instances.

    Raises:
        ConfigError: a value of the wrong type or out of range, a line for each.
        omegaconf.errors.MissingMandatoryValue: a value is missing.
    """
    values = {str(key): config[str(key)] for key in config if str(key) in signature(options)[0]}
    node = {
        key: OmegaConf.to_container(value) if OmegaConf.is_config(value) else value for key, value in values.items()
    }
    if problems := check_options("", node, options):
        raise ConfigError("\n".join(problems))
    return options(**node)


def check_options(key: str, node: dict[str, Any], options: type) -> list[str]:
    """What is wrong with the types of `node`'s values, and where nothing is, with the values; a line each.

    Args:
        key: of the section in the config; "" for the config itself.
        node: plain values by name.
        options: a dataclass.
    """
    parameters, hints = ({as_key(name): value for name, value in part.items()} for part in signature(options))
    if problems := check_arguments(key, node, parameters, hints, {}, key or "the command"):
        return problems
    try:
        options(**as_fields(node))
    except ConfigError as error:
        return str(error).splitlines()
    return []


def as_fields(node: Mapping[str, Any]) -> dict[str, Any]:
    """Config values by the names of a dataclass's fields, where a word of Python's own has an underscore: `async_`."""
    return {f"{key}_" if iskeyword(key) else key: value for key, value in node.items()}


def as_key(field: str) -> str:
    """The config key of a dataclass's field."""
    return field.removesuffix("_") if iskeyword(field.removesuffix("_")) else field
