"""All there is to tell about a model before it is trained."""

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from segtrain.analysis.cost import (
    FakeNetwork,
    Memory,
    Shares,
    count_parameters,
    inference_cost,
    training_memory,
)
from segtrain.analysis.receptive_field import ReceptiveField, receptive_fields, run
from segtrain.errors import ConfigError, one_line
from segtrain.models.base import SegmentationModel


@dataclass(frozen=True)
class Stage:
    """A feature of the backbone, or the logits.

    Attributes:
        name: `stem`, `layer1` ...; `logits`.
        channels: of the feature.
        stride: in pixels of the image.
        size: height and width of the map.
        receptive_field: height and width; see `ReceptiveField`.
    """

    name: str
    channels: int
    stride: int
    size: tuple[int, int]
    receptive_field: ReceptiveField


@dataclass(frozen=True)
class Description:
    """What a model sees, weighs and costs.

    Attributes:
        stages: shallow to deep, `logits` last.
        output_stride: of the backbone's deepest feature.
        parameters: how many, in each part.
        trainable: how many of them learn.
        macs: multiply-accumulates of one forward pass in evaluation, in each part.
        memory: of activations.
        unknown: operations behind which receptive fields are not known.
    """

    stages: list[Stage]
    output_stride: int
    parameters: Shares
    trainable: int
    macs: Shares
    memory: Memory
    unknown: list[str]

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for a machine to read."""
        shares = {"parameters": self.parameters, "macs": self.macs}
        named = {name: share._asdict() | {"total": share.total} for name, share in shares.items()}
        return asdict(self) | named | {"memory": self.memory._asdict()}


def describe(
    model: nn.Module, in_channels: int, batch_size: int, size: tuple[int, int], dtype: torch.dtype | None
) -> Description:
    """Looks at a model from all sides; nothing is allocated.

    Args:
        model: built on the meta device; it cannot be used for anything else afterwards.
        in_channels: of the images.
        batch_size: images in a batch, for multiply-accumulates and memory.
        size: height and width of the images.
        dtype: that autocast computes in; None for float32.

    Raises:
        ConfigError: `model` is no `SegmentationModel`, or takes no images of `size`.
    """
    if not isinstance(model, SegmentationModel):
        raise ConfigError(
            f"model._target_={type(model).__module__}.{type(model).__name__}: only a segtrain SegmentationModel, which "
            "tells its backbone from its decoder, can be described"
        )
    shape = (batch_size, in_channels, *size)
    try:
        with torch.no_grad():
            outputs = run(model.eval(), torch.empty(shape, device="meta"))
    except (RuntimeError, AssertionError, ValueError) as error:
        raise ConfigError(f"size={list(size)}: the model takes no such images: {one_line(error)}") from error
    fields, unknown = receptive_fields(model, in_channels, size)
    strides = {feature.name: feature.stride for feature in model.backbone.features} | {"logits": 1}
    stages = []
    for name, stride in strides.items():
        _, channels, *extent = outputs[name].shape
        stages.append(Stage(name, channels, stride, (extent[0], extent[1]), fields[name]))
    parameters = count_parameters(model)
    trainable = sum(x.numel() for x in model.parameters() if x.requires_grad)
    network = FakeNetwork(model, dtype)
    macs, inference = inference_cost(network, shape)
    training, weight_copies = training_memory(network, shape)
    return Description(
        stages,
        model.backbone.deepest.stride,
        parameters,
        trainable,
        Shares(macs.get("backbone", 0), macs[""] - macs.get("backbone", 0), None),
        Memory(training, inference, weight_copies),
        unknown,
    )
