"""Weights of whole models: published ones, checkpoints of earlier runs, and files that other frameworks wrote."""

import logging
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor, nn
from torchvision.models import get_model_weights, list_models

from segtrain.errors import CheckpointError
from segtrain.models.base import SegmentationModel
from segtrain.models.naming import NAMINGS, Naming
from segtrain.weights import Match, adapt_stem, match, read_state
from segtrain.weights.files import find_file

log = logging.getLogger("segtrain")

KEY = "model.weights"
# Our models that torchvision has, and what it calls them: fcn_resnet50, deeplabv3_mobilenet_v3_large ...
_TORCHVISION_MODELS = {"DilatedFCN": "fcn", "DeepLabV3": "deeplabv3"}


@dataclass(frozen=True)
class Translation:
    """A state dict in our model's names.

    Attributes:
        path: of the file.
        framework: whose names it came in.
        state: tensors by our names, those that only the file has included.
        match: how it agrees with the model.
    """

    path: Path
    framework: str
    state: dict[str, Tensor]
    match: Match


def load_model_weights(
    model: SegmentationModel, weights: str, nested: str | None, prefix: str | None, strict: bool
) -> None:
    """Loads the weights of a whole model, and logs what matched.

    Auxiliary heads serve the training alone: one that only the file has, or only the model, is no mismatch.

    Args:
        model: as the config describes it, its norms already of the kind they will be.
        weights: `coco_with_voc_labels`, torchvision's published weights of the same model and backbone; or a path: a
            checkpoint or state dict in segtrain's names, torchvision's, or segmentation_models.pytorch's.
        nested: name under which the file holds its state dict; None: found by itself.
        prefix: what every name in the file begins with and ours do not.
        strict: everything must match; False: what matches is loaded, which must be something.

    Raises:
        CheckpointError: the file is missing, cannot be fetched or read, or does not fit.
    """
    found = read_model_weights(model, weights, nested, prefix)
    check_match(found, strict)
    model.load_state_dict(found.match.fitting, strict=False)
    if any(_is_auxiliary(name) and name not in found.match.fitting for name in model.state_dict()):
        log.info("weights: %s has other auxiliary heads than model.aux, or none; these start anew", found.path)
    level = logging.INFO if found.match.complete else logging.WARNING
    log.log(level, "weights: %s (%s): %s", found.path, found.framework, found.match)


def read_model_weights(model: SegmentationModel, weights: str, nested: str | None, prefix: str | None) -> Translation:
    """Reads what `load_model_weights` would load; same arguments and errors, but that it need not fit."""
    path = find_file(weights, _published(model), KEY)
    return translate(model, read_state(path, KEY, nested), prefix, path)


def check_match(found: Translation, strict: bool) -> None:
    """Raises CheckpointError where weights do not fit as they must."""
    if not found.match.fitting:
        raise CheckpointError(f"{KEY}: {found.path} holds nothing of this model: {found.match}")
    if strict and not found.match.complete:
        extra = found.match.unknown
        of_the_head = bool(extra) and all(name.startswith("head_conv.") for name in extra)
        remedy = "set model.head_conv=true" if of_the_head else "model.weights_strict=false loads what matches"
        raise CheckpointError(f"{KEY}: {found.path} does not fit: {found.match}; {remedy}")


def translate(model: SegmentationModel, state: dict[str, Tensor], prefix: str | None, path: Path) -> Translation:
    """Gives the tensors of `state` our names and, the first convolution's, our number of channels.

    Raises:
        CheckpointError: no name has the prefix, or all have one that was not named.
    """
    own = model.state_dict()
    if prefix:
        state = {name.removeprefix(prefix): x for name, x in state.items() if name.startswith(prefix)}
        if not state:
            raise CheckpointError(f"model.weights_prefix={prefix}: no name in {path} begins with it")
    naming = _naming_of(model, state, own)
    if naming is not None:
        state = {naming.ours(name): x for name, x in state.items()}
    state = {_at_home(name, own): x for name, x in state.items()}
    state = {name: _with_channels(x, own.get(name)) for name, x in state.items()}
    if not any(isinstance(layer, nn.modules.batchnorm._BatchNorm) for layer in model.modules()):
        # GroupNorm takes over weights and biases; running statistics have no place in it.
        state = {name: x for name, x in state.items() if name in own or not _is_statistic(name)}
    # Of auxiliary heads, what fits is taken, and what does not is no matter.
    state = {name: x for name, x in state.items() if not _is_auxiliary(name) or _fits(x, own.get(name))}
    found = match(model, state)
    found = replace(found, missing=[name for name in found.missing if not _is_auxiliary(name)])
    if not found.fitting:
        _check_prefix(list(state), prefix or "", path)
    return Translation(path, "segtrain" if naming is None else naming.framework, state, found)


def _naming_of(model: SegmentationModel, state: dict[str, Tensor], own: dict[str, Tensor]) -> Naming | None:
    """Whose names the file has; None: ours, or nobody's we know."""
    if all(name in own for name in state):
        return None
    ours = (naming for naming in NAMINGS if naming.model == type(model).__name__)
    return next((naming for naming in ours if any(name.startswith(naming.mark) for name in state)), None)


def _published(model: SegmentationModel) -> dict[str, str]:
    """What torchvision publishes for this model over this backbone: name -> URL."""
    family, backbone = _TORCHVISION_MODELS.get(type(model).__name__), getattr(model.backbone, "name", None)
    theirs = f"{family}_{backbone}"
    if theirs not in list_models():
        return {}
    return {"coco_with_voc_labels": get_model_weights(theirs)["COCO_WITH_VOC_LABELS_V1"].url}


def _at_home(name: str, own: dict[str, Tensor]) -> str:
    """A backbone's parameter where this backbone has it, under `net.` or not."""
    inside = name.replace("backbone.", "backbone.net.", 1) if name.startswith("backbone.") else name
    return inside if name not in own and inside in own else name


def _is_auxiliary(name: str) -> bool:
    return name.startswith("auxiliary.")


def _fits(x: Tensor, own: Tensor | None) -> bool:
    return own is not None and x.shape == own.shape


def _is_statistic(name: str) -> bool:
    return name.endswith(("running_mean", "running_var", "num_batches_tracked"))


def _with_channels(x: Tensor, own: Tensor | None) -> Tensor:
    """A first convolution made for RGB, for the images' channels."""
    if own is None or x.ndim != 4 or own.ndim != 4 or x.shape == own.shape or x.shape[1] != 3:
        return x
    adapted = adapt_stem(x, own.shape[1])
    return adapted if adapted.shape == own.shape else x


def _check_prefix(names: list[str], prefix: str, path: Path) -> None:
    """Raises CheckpointError where all names begin with the same word, which then is a wrapper's."""
    first_words = {name.partition(".")[0] for name in names}
    if len(first_words) == 1 and len(names) > 1:
        longer = f"{prefix}{first_words.pop()}."
        raise CheckpointError(
            f"{KEY}: every name in {path} begins with {longer} and none is this model's; "
            f"set model.weights_prefix={longer} if that is a wrapper's"
        )
