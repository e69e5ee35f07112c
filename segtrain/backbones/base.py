"""The contract between backbones and models."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from segtrain.errors import ConfigError, nearest
from segtrain.nn.recompute import recomputed
from segtrain.types import Feature


class Backbone(nn.Module):
    """An image becomes a pyramid of named feature maps.

    A subclass states its `features` and gives exactly those, by name:

        forward(images: [N, in_channels, H, W] float) -> {name: [N, channels, ceil(H / stride), ceil(W / stride)]}

    for any H and W, and for a batch of one in training. A model asks for a feature by name or by stride
    (`backbone.feature(stride=4)`), never by its place in the list, so it runs over any backbone that has one.

    Attributes:
        features: (name, channels, stride in input pixels), shallow to deep.
        in_channels: channels of the images.
        recompute: activation checkpointing, for the stages that `forward` calls through `run`.
    """

    def __init__(self, in_channels: int, features: Sequence[Feature]) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.features = tuple(features)
        self.recompute = False

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        raise NotImplementedError

    def run(self, stage: nn.Module, x: Tensor, *, as_one: bool = False) -> Any:
        """`stage(x)`; where `recompute` is set, a training step keeps only what each block of it reads.

        Args:
            stage: a plain `nn.Sequential` of blocks; or one block: any other module, subclasses of Sequential included.
            x: [N, C, H, W].
            as_one: the plain `nn.Sequential` is one block too. It must be where layers in it work in place: such
                a layer by itself would overwrite what it has to read again.

        Returns: what `stage` returns: a map, or several (Xception's blocks give two).
        """
        if not (self.recompute and self.training and torch.is_grad_enabled()):
            return stage(x)
        for block in stage if type(stage) is nn.Sequential and not as_one else [stage]:
            x = recomputed(block, x)
        return x

    @property
    def deepest(self) -> Feature:
        """The last feature, from which a decoder starts."""
        return self.features[-1]

    def feature(self, name: str | None = None, *, stride: int | None = None) -> Feature:
        """The feature called `name`, or the deepest one of `stride`.

        Several have the same stride where stride was turned into dilation; the deepest has seen most.

        Raises:
            ConfigError: the backbone has no such feature; the message lists those it has.
        """
        assert (name is None) != (stride is None), "ask by name or by stride"
        for feature in reversed(self.features):
            if feature.name == name or feature.stride == stride:
                return feature
        wanted = f"with stride {stride}" if name is None else f"called {name!r}"
        hint = "" if name is None else nearest(name, [feature.name for feature in self.features])
        known = ", ".join(f"{feature.name} (stride {feature.stride})" for feature in self.features)
        raise ConfigError(f"model.backbone: {type(self).__name__} has no feature {wanted}, only {known}{hint}")
