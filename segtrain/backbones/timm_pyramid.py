"""Whatever timm gives as a feature pyramid: convolutional networks, Swin and other hierarchical transformers."""

import math
import textwrap
from contextlib import suppress
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segtrain.backbones.base import Backbone
from segtrain.errors import CheckpointError, ConfigError, nearest, one_line
from segtrain.nn.anysize import divided_up, is_size_free
from segtrain.nn.checks import check_share
from segtrain.nn.norm import BatchNorm2d, convert_norm
from segtrain.types import Feature
from segtrain.weights import read_state
from segtrain.weights.files import find_file

KEY = "model.backbone"
HUB_FILE = "model.safetensors"


class TimmPyramid(Backbone):
    """`timm.create_model(name, features_only=True)` as child `net`, under timm's parameter names.

    Features bear the names of timm's modules (`layer1`, `stages_0`) with timm's channels and strides. Images are padded
    with zeros on the right and below to what the network takes, and the maps cropped to ceil(size / stride): a
    multiple of the strides mostly (patches would leave out the remainder); a multiple of `img_size` where windows are
    cut from the whole map (MaxViT); `img_size` itself where positions have a parameter each (Hiera).

    With `recompute` timm checkpoints in its own way: BatchNorm's running statistics count such a batch twice.

    Args:
        name: timm's, with or without the tag of its weights: `convnext_tiny.fb_in22k`.
        weights: `imagenet`: those that timm downloads for `name`, mostly from the Hugging Face hub, whose client checks
            the size of what arrives; no hash is published that could be verified at every use, as those of other
            backbones are. Or the path of a state dict in timm's names, with or without the classifier; or None.
        output_stride: of the deepest feature; None: the network's own. Few networks take 8 or 16.
        img_size: height and width of the images that position embeddings and windows are made for; None: timm's.
        drop_path_rate: stochastic depth, [0, 1); None: timm's, mostly 0.

    Raises:
        ConfigError: timm is not installed, knows no such network, gives no pyramid of it or not with these options, or
            does not checkpoint it.
        CheckpointError: the weights are missing, cannot be fetched, or are another network's.
    """

    _recompute = False

    def __init__(
        self,
        in_channels: int,
        name: str,
        weights: str | None,
        output_stride: Literal[8, 16, 32] | None,
        img_size: int | None,
        drop_path_rate: float | None,
    ) -> None:
        check_share(f"{KEY}.drop_path_rate", drop_path_rate or 0.0)
        options = {
            "output_stride": None if output_stride == 32 else output_stride,  # the usual one: many take no other
            "img_size": img_size,
            "drop_path_rate": drop_path_rate,
        }
        net = _create(name, in_channels, options)
        info = [(module.replace(".", "_"), channels, stride) for module, channels, stride in _levels(net)]
        super().__init__(in_channels, [Feature(*level) for level in info])
        if output_stride not in (None, self.deepest.stride):
            raise ConfigError(
                f"{KEY}.output_stride={output_stride}: timm's {name} ends at stride {self.deepest.stride}; set null"
            )
        if weights is not None:
            net = _create_with_weights(name, in_channels, options, weights)
        self.net, self.name = net, name
        self.channels_last = getattr(net, "output_fmt", "NCHW") == "NHWC"
        _make_safe_for_single_values(net)
        self.unit, self.is_fixed = self._find_sizes(img_size)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        height, width = images.shape[-2:]
        return {
            feature.name: x[..., : divided_up(height, feature.stride), : divided_up(width, feature.stride)]
            for feature, x in zip(self.features, self._maps(self._padded(images)), strict=True)
        }

    @property
    def recompute(self) -> bool:
        return self._recompute

    @recompute.setter
    def recompute(self, value: bool) -> None:
        if value == self._recompute:  # as when the base class sets it, before there is a network
            return
        # timm wraps networks that give their maps themselves (transformers), and does not pass this on to them.
        wraps = not hasattr(self.net, "set_grad_checkpointing")
        try:
            (self.net.model if wraps else self.net).set_grad_checkpointing(value)
        except (AttributeError, AssertionError) as error:  # how networks say that they have none
            raise ConfigError(
                f"model.activation_checkpointing=true: timm's {self.name} has none; set it to false"
            ) from error
        self._recompute = value

    def _maps(self, images: Tensor) -> list[Tensor]:
        return [x.permute(0, 3, 1, 2) if self.channels_last else x for x in self.net(images)]

    def _padded(self, images: Tensor) -> Tensor:
        height, width = images.shape[-2:]
        below, right = (
            divided_up(length, unit) * unit - length for length, unit in zip((height, width), self.unit, strict=True)
        )
        if self.is_fixed and (height + below, width + right) != self.unit:
            raise ConfigError(
                f"{KEY}.name: this network takes images of at most {self.unit[0]} x {self.unit[1]} pixels, not "
                f"{height} x {width}; set {KEY}.img_size to the largest, rounded up to a multiple of "
                f"{self.deepest.stride}, or take another network"
            )
        return F.pad(images, (0, right, 0, below)) if is_size_free() or below or right else images

    def _find_sizes(self, img_size: int | None) -> tuple[tuple[int, int], bool]:
        """Tries what images `net` takes: the unit of their height and width, and whether they must be one unit."""
        common = math.lcm(*(feature.stride for feature in self.features))
        height, width = (img_size, img_size) if img_size is not None else self.net.default_cfg["input_size"][-2:]
        self.net.eval()
        if self._problem(2 * common, 3 * common) is None:
            unit, is_fixed = (common, common), False
        elif (problem := self._problem(height, width)) is None:
            unit, is_fixed = (height, width), self._problem(height, 2 * width) is not None
        else:
            raise ConfigError(f"{KEY}.name={self.name}: timm's pyramid is not of its own strides ({problem})")
        self.net.train()
        return unit, is_fixed

    def _problem(self, height: int, width: int) -> str | None:
        """Why an image of this size does not give the declared maps; None if it does."""
        try:
            with torch.no_grad():
                maps = self._maps(torch.zeros(1, self.in_channels, height, width))
        except (AssertionError, RuntimeError, ValueError) as error:
            return f"{height} x {width} pixels: {one_line(error)}"
        for feature, x in zip(self.features, maps, strict=True):
            given = tuple(x.shape[1:])
            declared = (feature.channels, -(-height // feature.stride), -(-width // feature.stride))
            if given != declared:
                return f"{height} x {width} pixels give a {feature.name} of {given}, not {declared}"
        return None


class BatchNormAct2d(BatchNorm2d):
    """timm's layer of that name, BatchNorm, drop-out and activation in one, defined for one value per channel too."""

    def __init__(self, like: nn.BatchNorm2d) -> None:
        super().__init__(like.num_features, like.eps, like.momentum, like.affine, like.track_running_stats)
        self.weight, self.bias = like.weight, like.bias
        self.running_mean, self.running_var = like.running_mean, like.running_var
        self.num_batches_tracked = like.num_batches_tracked
        self.drop, self.act = like.get_submodule("drop"), like.get_submodule("act")

    def forward(self, input: Tensor) -> Tensor:
        result: Tensor = self.act(self.drop(super().forward(input)))
        return result


def _make_safe_for_single_values(net: nn.Module) -> None:
    from timm.layers import BatchNormAct2d as TimmsBatchNormAct2d

    convert_norm(net, "batch")
    for parent in list(net.modules()):
        for name, layer in list(parent.named_children()):
            if isinstance(layer, TimmsBatchNormAct2d):
                setattr(parent, name, BatchNormAct2d(layer))


def _timm() -> Any:
    try:
        import timm  # an optional package: imported only when asked for
    except ImportError as error:
        raise ConfigError("model/backbone=timm takes the package timm; pip install timm") from error
    return timm


def _create(name: str, in_channels: int, options: dict[str, Any], **pretrained: Any) -> Any:
    timm = _timm()
    if not timm.is_model(name):  # neither a path nor a repository: a checkpoint's config may name timm's own only
        raise ConfigError(f"{KEY}.name={name}: timm has no such network{nearest(name, timm.list_models())}")
    arguments = {"features_only": True, "in_chans": in_channels} | options | pretrained
    try:
        try:
            return timm.create_model(name, dynamic_img_size=True, **arguments)
        except TypeError as error:
            if "dynamic_img_size" not in str(error):
                raise
        return timm.create_model(name, **arguments)
    except Exception as error:  # thirteen hundred networks refuse what they do not take in any way they like
        if pretrained:
            raise
        given = [f"{KEY}.{option}={value}" for option, value in options.items() if value is not None]
        reason = _shortened(error) or type(error).__name__
        what = f"timm's {name} does not take it" if given else "timm gives no feature pyramid of it"
        raise ConfigError(f"{', '.join(given) or f'{KEY}.name={name}'}: {what} ({reason})") from error


def _create_with_weights(name: str, in_channels: int, options: dict[str, Any], weights: str) -> Any:
    """The network that `_create` has built without weights: what fails now is their fault."""
    published = _timm().get_pretrained_cfg(name)
    url = _hub_url(published.hf_hub_id) if published.hf_hub_id else published.url
    if weights == "imagenet" and url:
        try:
            if published.hf_hub_id:
                _ask_hub(published.hf_hub_id)
            return _create(name, in_channels, options, pretrained=True)
        except Exception as error:  # of whatever package fetches files for timm
            raise CheckpointError(
                f"{KEY}.weights=imagenet: timm cannot load {url} ({type(error).__name__}: {_shortened(error)}); "
                f"fetch it elsewhere and give its path, {KEY}.weights=PATH"
            ) from error
    path = find_file(weights, {"imagenet": url} if url else {}, f"{KEY}.weights")
    classifiers = published.classifier or ()
    dropped = tuple(f"{part}." for part in ([classifiers] if isinstance(classifiers, str) else classifiers))
    state = {key: x for key, x in read_state(path, f"{KEY}.weights").items() if not key.startswith(dropped)}
    # Without classes there is no classifier to leave out, and timm loads strictly; it adapts stem and positions.
    overlay = {"state_dict": state, "num_classes": 0}
    try:
        net = _create(name, in_channels, options, pretrained=True, pretrained_cfg_overlay=overlay)
    except Exception as error:
        raise CheckpointError(f"{KEY}.weights: {path} does not fit timm's {name}: {_shortened(error)}") from error
    # A few families load what they find. A pyramid's names are those of its network but for the first part.
    named = {form for key in state for form in (key, key.replace(".", "_", 1), f"model.{key}", f"body.{key}")}
    missing = [key for key in net.state_dict() if key not in named and not key.endswith("num_batches_tracked")]
    if missing:
        raise CheckpointError(
            f"{KEY}.weights: {path} does not fit timm's {name}: no {missing[0]}, {len(missing)} in all"
        )
    return net


def _hub_url(repository: str) -> str:
    """The file that timm looks for first in a repository of the Hugging Face hub."""
    from huggingface_hub import hf_hub_url  # comes with timm

    return hf_hub_url(repository, HUB_FILE)


def _ask_hub(repository: str) -> None:
    """Raises at once where the hub does not answer; timm's download would try, wait and complain for a minute first."""
    from huggingface_hub import get_hf_file_metadata, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError

    if not isinstance(try_to_load_from_cache(repository, HUB_FILE), str):
        with suppress(EntryNotFoundError):  # a few repositories have the file under another of timm's names
            get_hf_file_metadata(_hub_url(repository))


def _shortened(error: Exception) -> str:
    return textwrap.shorten(one_line(error), width=240, placeholder=" ...")


def _levels(net: Any) -> list[tuple[str, int, int]]:
    info = net.feature_info
    return list(zip(info.module_name(), info.channels(), info.reduction(), strict=True))
