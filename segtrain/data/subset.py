"""Some of a data set's items, as a data set."""

from collections.abc import Sequence

from segtrain.types import Sample, SegmentationDataset


class Subset:
    """The items of `dataset` at `indices`, in that order, with its facts (a `SegmentationDataset`)."""

    def __init__(self, dataset: SegmentationDataset, indices: Sequence[int]) -> None:
        self.class_names = dataset.class_names
        self.palette = dataset.palette
        self.ignore_index = dataset.ignore_index
        self.in_channels = dataset.in_channels
        self._dataset = dataset
        self._indices = tuple(indices)

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, key: tuple[int, int]) -> Sample:
        epoch, index = key
        return self._dataset[epoch, self._indices[index]]

    def names(self) -> Sequence[str]:
        names = self._dataset.names()
        return [names[index] for index in self._indices]

    def describe(self, index: int) -> str:
        return self._dataset.describe(self._indices[index])
