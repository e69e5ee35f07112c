"""What a model's config says beside its constructor's arguments: the same keys for every model."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from segtrain.errors import ConfigError, nearest
from segtrain.models.auxiliary import AuxiliaryOptions
from segtrain.models.base import SegmentationModel
from segtrain.models.pretrained import load_model_weights
from segtrain.nn.norm import NormKind, convert_norm

NORMS = (nn.modules.batchnorm._BatchNorm, nn.GroupNorm, nn.LayerNorm)


@dataclass(frozen=True)
class ModelOptions:
    """The keys of `model` that are not its constructor's; `configs/model/_defaults.yaml` explains each.

    Their values here change nothing, for a model of the user's own whose YAML leaves them out.
    """

    aux: dict[str, Any] = field(default_factory=dict)
    norm: NormKind = "batch"
    frozen: list[str] = field(default_factory=list)
    frozen_norm: list[str] = field(default_factory=list)
    activation_checkpointing: bool = False
    weights: str | None = None
    weights_key: str | None = None
    weights_prefix: str | None = None
    weights_strict: bool = True


def adapt(model: nn.Module, options: ModelOptions, heads: Mapping[str, AuxiliaryOptions]) -> None:
    """Applies `options` to a model just built, in place.

    Args:
        model: the keys that ask for something need a `SegmentationModel`.
        options: of the config.
        heads: the auxiliary heads to add; none where the model will only be evaluated.

    Raises:
        ConfigError: a part or a feature does not exist, or this model cannot have what is asked for.
        CheckpointError: the weights cannot be read, or do not fit.
    """
    if not isinstance(model, SegmentationModel):
        if asked := _asked(options):
            raise ConfigError(
                f"model.{asked[0]}: {type(model).__name__} is no segtrain.models.base.SegmentationModel; leave it out"
            )
        return
    for name, head in heads.items():
        try:
            built = head.build(model.backbone, model.decoder_features, model.num_classes)
        except ConfigError as error:
            raise ConfigError(f"model.aux.{name}: {str(error).removeprefix('model.backbone: ')}") from None
        model.add_auxiliary(name, built, head.weight)
    convert_norm(model, options.norm)
    if options.weights is not None:
        load_model_weights(model, options.weights, options.weights_key, options.weights_prefix, options.weights_strict)
    _freeze(model, options)
    model.backbone.recompute = options.activation_checkpointing


def _asked(options: ModelOptions) -> list[str]:
    """The keys whose values ask for something."""
    silent = ModelOptions()
    return [key for key, value in vars(options).items() if value != getattr(silent, key)]


def _freeze(model: SegmentationModel, options: ModelOptions) -> None:
    """Frozen parts do not learn and stay in evaluation mode: no dropout, no new statistics."""
    parts = list(_parts(model, "frozen", options.frozen))
    for part in _parts(model, "frozen_norm", options.frozen_norm):
        norms = [layer for layer in part.modules() if isinstance(layer, NORMS)]
        if not norms:
            raise ConfigError(f"model.frozen_norm={options.frozen_norm}: {type(part).__name__} has no norms to freeze")
        parts += norms
    for part in parts:
        part.requires_grad_(False)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ConfigError(f"model.frozen={options.frozen}: leaves no parameter to train")
    model.frozen = tuple(parts)
    model.train(model.training)


def _parts(model: SegmentationModel, key: str, names: Iterable[str]) -> Iterable[nn.Module]:
    modules = dict(model.named_modules())
    for name in names:
        if name.startswith("auxiliary.") and not model.auxiliary:
            continue  # a head of the training, which this model does without
        if not name or name not in modules:
            hint = nearest(name, modules)
            first = ", ".join(child for child, _ in model.named_children())
            raise ConfigError(
                f"model.{key}: the model has no part {name!r}{hint} (there are: {first}, and parts of these)"
            )
        yield modules[name]
