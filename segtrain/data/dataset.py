"""What every data set does: read an item, check it, augment it."""

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset

from segtrain.data.labels import LabelMap, check_palette
from segtrain.data.pairing import Pairs
from segtrain.data.reading import check_mask_format, read_image, read_mask
from segtrain.errors import ConfigError, DataError
from segtrain.types import Sample

# (sample, seed, epoch, index) -> sample; a pure function of its arguments, as `segtrain.data.augment.Augmentation` is.
Transform = Callable[[Sample, int, int, int], Sample]


class LabelledDataset(Dataset[Sample], ABC):
    """Base of all data sets: facts, and items that are augmented by `(seed, epoch, index)` alone.

    A subclass has `__len__`, `names`, `read` and `read_labels`. Until `with_transform` a data set's items are as read.

    Attributes:
        class_names: by class index.
        palette: a colour for each class.
        ignore_index: the label of pixels that count nowhere.
        in_channels: of an image.
        value_range: see `read_image`.
    """

    def __init__(
        self, classes: Sequence[str], palette: Sequence[Sequence[int]] | None, ignore_index: int, in_channels: int
    ) -> None:
        if in_channels < 1:
            raise ConfigError(f"data.in_channels={in_channels}: 3 (RGB), 1 (grey), or as many as the image files have")
        doubled = [name for name in classes if list(classes).count(name) > 1]
        if doubled:
            raise ConfigError(
                f"data.classes: {doubled[0]!r} stands there more than once; give every class its own name"
            )
        self.class_names = tuple(classes)
        self.palette = check_palette(palette, len(classes))
        self.ignore_index = ignore_index
        self.in_channels = in_channels
        self.value_range: tuple[float, float] | None = None
        self._transform: Transform | None = None
        self._seed = 0

    def with_transform(self, transform: Transform | None, seed: int) -> Self:
        """A copy whose items pass through `transform(sample, seed, epoch, index)`; None: items as they are read."""
        other = copy.copy(self)
        other._transform = transform
        other._seed = seed
        return other

    def with_value_range(self, value_range: tuple[float, float] | None) -> Self:
        """A copy that reads image files so."""
        other = copy.copy(self)
        other.value_range = value_range
        return other

    def __getitem__(self, key: tuple[int, int]) -> Sample:
        """Item `index` as augmented in `epoch`, for key (epoch, index)."""
        epoch, index = key
        sample = self.read(index)
        return sample if self._transform is None else self._transform(sample, self._seed, epoch, index)

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def names(self) -> Sequence[str]:
        """One name an item, unique, in the order of the indices."""

    def describe(self, index: int) -> str:
        """What a message calls an item: its name, and the files that it is read from, where there are any."""
        return self.names()[index]

    @abstractmethod
    def read(self, index: int) -> Sample:
        """The item before any transform. DataError where it is damaged or its labels are wrong."""

    @abstractmethod
    def read_labels(self, index: int) -> NDArray[np.integer]:
        """`read(index).labels` without the cost of the image, for statistics over classes."""


class ImageMaskDataset(LabelledDataset):
    """Image files with mask files.

    Args:
        pairs: {name: (image file, mask file)} in the order of the indices.
        classes: names, by class index.
        palette: [red, green, blue] for each class, 0..255; None is VOC's colour map.
        labels: see `LabelMap`.
        mask_format: see `read_mask`.
        ignore_index: not a class; pixels of this label count nowhere.
        in_channels: 3 (RGB), 1 (grey), or as many as the image files have.
    """

    def __init__(
        self,
        pairs: Pairs,
        classes: Sequence[str],
        palette: Sequence[Sequence[int]] | None,
        labels: Mapping[str, Sequence[int | Sequence[int]]] | None,
        mask_format: str,
        ignore_index: int,
        in_channels: int,
    ) -> None:
        super().__init__(classes, palette, ignore_index, in_channels)
        self.mask_format = check_mask_format(mask_format)
        self.label_map = LabelMap(classes, labels, ignore_index, colours=mask_format == "palette", palette=palette)
        self._names = tuple(pairs)
        self._paths = tuple(pairs.values())

    def __len__(self) -> int:
        return len(self._names)

    def names(self) -> Sequence[str]:
        return self._names

    def paths(self, index: int) -> tuple[Path, Path]:
        """The item's image file and mask file."""
        return self._paths[index]

    def describe(self, index: int) -> str:
        return f"{self._names[index]} ({', '.join(map(str, self._paths[index]))})"

    def read_labels(self, index: int) -> NDArray[np.integer]:
        mask = self._paths[index][1]
        return self.label_map.apply(read_mask(mask, self.mask_format), str(mask))

    def read(self, index: int) -> Sample:
        image_path, mask_path = self._paths[index]
        image = read_image(image_path, self.in_channels, self.value_range)
        labels = self.read_labels(index)
        if image.shape[:2] != labels.shape:
            turned = image.shape[1::-1] == labels.shape
            raise DataError(
                f"{image_path} is {image.shape[1]}x{image.shape[0]}, but its mask {mask_path} is "
                f"{labels.shape[1]}x{labels.shape[0]}; "
                + ("is the image turned by its EXIF orientation?" if turned else "they must be of one size")
            )
        return Sample(image, labels, self._names[index])
