"""How often each class occurs, for class weights."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from segtrain.data.dataset import LabelledDataset
from segtrain.data.skipping import SkippedItems
from segtrain.errors import DataError


class PixelCounts(NamedTuple):
    """Counts by class, both int64 [num_classes]; ignored pixels count in neither.

    Attributes:
        pixels: of the class, in the whole data set.
        image_pixels: of all classes together, in the images in which the class occurs.
    """

    pixels: NDArray[np.int64]
    image_pixels: NDArray[np.int64]


def pixel_counts(dataset: LabelledDataset, progress: bool, skipped: SkippedItems | None = None) -> PixelCounts:
    """One pass over the labels as they lie on disk, without augmentation.

    Args:
        dataset: of which only `read_labels` is used.
        progress: show a bar, where there is a terminal.
        skipped: where masks that cannot be read are noted and left out; None: they are an error.

    Raises:
        DataError: a mask cannot be read, or more of them than may be skipped.
    """
    num_classes = len(dataset.class_names)
    pixels = np.zeros(num_classes, dtype=np.int64)
    image_pixels = np.zeros(num_classes, dtype=np.int64)
    hide = None if progress else True  # None: tqdm looks whether there is a terminal
    for index in tqdm(range(len(dataset)), desc="counting classes", unit="image", leave=False, disable=hide):
        try:
            labels = dataset.read_labels(index)
        except DataError as error:
            if skipped is None:
                raise
            skipped.add(index, str(error))
            continue
        counts = np.bincount(labels[labels != dataset.ignore_index], minlength=num_classes)
        pixels += counts
        image_pixels += np.where(counts > 0, counts.sum(), 0)
    return PixelCounts(pixels, image_pixels)
