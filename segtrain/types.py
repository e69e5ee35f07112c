"""The values that travel between rooms."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True)
class Sample:
    """One item of a data set, as read from disk or as augmented.

    Attributes:
        image: [H, W, C] uint8.
        labels: [H, W] uint8 or int32: class indices in [0, num_classes), or the data set's ignore index.
        name: what a message about this item calls it, unique within its split.
    """

    image: NDArray[np.uint8]
    labels: NDArray[np.integer]
    name: str


@dataclass(frozen=True)
class Batch:
    """Samples of equal size, stacked.

    Attributes:
        images: [N, C, H, W] uint8; normalised on the device.
        labels: [N, H, W] integer, as in `Sample`.
        names: N names.
    """

    images: Tensor
    labels: Tensor
    names: tuple[str, ...]


@dataclass(frozen=True)
class Shard:
    """Which part of the data a process reads, where several train or evaluate together.

    Attributes:
        rank: of the process, in [0, size).
        size: how many processes there are.
    """

    rank: int
    size: int

    def __post_init__(self) -> None:
        assert 0 <= self.rank < self.size


WHOLE = Shard(rank=0, size=1)  # of a process that is alone


class ModelOutput(NamedTuple):
    """What every segmentation model returns, in training and in evaluation.

    Attributes:
        logits: [N, num_classes, H, W] at the input's resolution, unnormalised.
        aux: logits of the same shape by auxiliary head; empty in evaluation and for models without one.
    """

    logits: Tensor
    aux: dict[str, Tensor]


class Area(NamedTuple):
    """A rectangle of an image: rows [top, bottom), columns [left, right)."""

    top: int
    left: int
    bottom: int
    right: int

    @property
    def height(self) -> int:
        return self.bottom - self.top

    @property
    def width(self) -> int:
        return self.right - self.left

    @property
    def rows(self) -> slice:
        return slice(self.top, self.bottom)

    @property
    def columns(self) -> slice:
        return slice(self.left, self.right)


class Feature(NamedTuple):
    """One level of a feature pyramid: its name, its channels, and its stride in input pixels."""

    name: str
    channels: int
    stride: int


class SegmentationDataset(Protocol):
    """What training and evaluation need of a data set (`torch.utils.data.Dataset` with a few facts)."""

    class_names: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    ignore_index: int
    in_channels: int

    def __len__(self) -> int: ...

    def __getitem__(self, key: tuple[int, int]) -> Sample: ...

    def names(self) -> Sequence[str]: ...

    def describe(self, index: int) -> str: ...


@dataclass(frozen=True)
class DataFacts:
    """What a model must know of the data it was trained on; travels in its checkpoint.

    Attributes:
        class_names: by class index.
        palette: one RGB colour per class, 0..255.
        ignore_index: label of pixels that count for nothing.
        in_channels: of the images.
        mean: per channel, of pixel values scaled to 0..1.
        std: likewise.
        threshold: of a binary task (`data.task=binary`): a pixel is of class 1, the foreground, where its probability
            is at least this, in (0, 1). None: a pixel is of the class with the highest logit.
        value_range: the values of image files that become 0 and 255 when they are read; None: files have 8 bits.
    """

    class_names: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    ignore_index: int
    in_channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    threshold: float | None = None  # files older than binary tasks do not say
    value_range: tuple[float, float] | None = None  # likewise

    @classmethod
    def of(cls, num_classes: int, in_channels: int) -> Self:
        """Facts of no data in particular, for a model that is built without any."""
        names = tuple(f"class {index}" for index in range(num_classes))
        return cls(names, ((0, 0, 0),) * num_classes, 255, in_channels, (0.5,) * in_channels, (0.25,) * in_channels)

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def foreground(self) -> str | None:
        """The class that a binary task looks for; None of any other task."""
        return None if self.threshold is None else self.class_names[1]

    @property
    def num_outputs(self) -> int:
        """Channels of the model's own logits: one where the other class is what is left."""
        return self.num_classes if self.threshold is None else 1


@dataclass(frozen=True)
class Hardware:
    """Where and in which number format a model computes.

    Attributes:
        device: where model and batches live.
        autocast_dtype: dtype of mixed precision, None for float32.
        memory_format: of images and convolution weights.
        loss_scaling: whether gradients need a loss scale (fp16 only: its smallest normal number is 6e-5).
    """

    device: torch.device
    autocast_dtype: torch.dtype | None
    memory_format: torch.memory_format
    loss_scaling: bool

    def autocast(self) -> torch.autocast:
        """The context in which a model computes in this precision."""
        enabled = self.autocast_dtype is not None
        return torch.autocast(self.device.type, dtype=self.autocast_dtype, enabled=enabled)


@dataclass(frozen=True)
class Example:
    """One image with its truth and its prediction ([H, W] class indices), for a picture."""

    sample: Sample
    prediction: NDArray[np.integer]
