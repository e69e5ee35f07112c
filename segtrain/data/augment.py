"""Augmentation by albumentations, seeded for each sample by (seed, epoch, index) and nothing else."""

import hashlib
import random
from collections.abc import Mapping, Sequence
from typing import Any

import albumentations
import cv2
import numpy as np
from albumentations import BaseCompose, BasicTransform, DualTransform
from numpy.typing import NDArray

from segtrain.errors import ConfigError, DataError, one_line
from segtrain.types import Sample


class Augmentation:
    """Named transforms, applied in their order; none is the identity.

    A call is a pure function of its arguments. Seeding transforms once, as albumentations does, repeats the same
    draws in every epoch when loader workers are started anew, and gives a horizontal and a vertical flip the same
    draw; here every sample seeds one generator that all its transforms draw from in turn.
    """

    def __init__(self, transforms: Mapping[str, BasicTransform | BaseCompose]) -> None:
        self.names = tuple(transforms)
        self._compose = albumentations.Compose(list(transforms.values()))

    def __call__(self, sample: Sample, seed: int, epoch: int, index: int) -> Sample:
        """The augmented sample.

        Raises:
            DataError: a transform cannot take this sample, for example a crop larger than the image.
        """
        if not self.names:
            return sample
        digest = hashlib.blake2b(f"{seed}|{epoch}|{index}".encode(), digest_size=8).digest()
        state = int.from_bytes(digest, "little")
        self._compose.set_random_state(np.random.default_rng(state), random.Random(state))
        try:
            result = self._compose(image=sample.image, mask=sample.labels)
        except Exception as error:  # albumentations', OpenCV's and a user's own have no base in common
            height, width = sample.labels.shape
            raise DataError(f"{sample.name} ({height}x{width}): augmentation failed: {one_line(error)}") from error
        return Sample(result["image"], result["mask"], sample.name)


class RandomScaleCrop(DualTransform):
    """Scale by a random factor, then crop a window of fixed size at a random place, padding where it is too large.

    Cuts the window out first and scales only that: at factor 2 a quarter of the pixels of scaling the whole image,
    with the same result but for half a pixel at the window's rim.

    Args:
        size: height, width of the result.
        scale: smallest and largest factor, drawn uniformly; 2.0 shows objects twice as large.
        fill: colour of padding, 0..1 for each channel; the data's mean becomes 0 after normalisation.
        fill_mask: label of padding, the ignore index.
    """

    def __init__(self, size: Sequence[int], scale: Sequence[float], fill: Sequence[float], fill_mask: int) -> None:
        super().__init__(p=1.0)
        if len(size) != 2 or min(size) < 1:
            raise ConfigError(f"size={size} is not [height, width] in pixels, such as [256, 256]")
        if len(scale) != 2 or not 0 < scale[0] <= scale[1]:
            raise ConfigError(f"scale={scale} is not [smallest, largest] with 0 < smallest <= largest")
        self.size = tuple(size)
        self.scale = tuple(scale)
        self.fill = tuple(round(255 * value) for value in fill)
        self.fill_mask = fill_mask

    def get_params_dependent_on_data(self, params: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
        """The window in the source: its top left corner, outside of the image where it is larger, and its size."""
        factor = self.py_random.uniform(*self.scale)
        corner, window = [], []
        for length, wanted in zip(params["shape"][:2], self.size, strict=True):
            extent = max(1, round(wanted / factor))
            slack = length - extent  # negative: so much is padded, wherever it falls
            corner.append(self.py_random.randint(min(0, slack), max(0, slack)))
            window.append(extent)
        return {"corner": corner, "window": window}

    def apply(self, img: NDArray[np.uint8], corner: list[int], window: list[int], **params: Any) -> NDArray[np.uint8]:
        channels = img.shape[2]
        if len(self.fill) != channels:
            raise ValueError(f"fill has {len(self.fill)} values for an image of {channels} channels")
        # Averaging when shrinking: bilinear interpolation would skip pixels and alias.
        interpolation = cv2.INTER_AREA if window[0] > self.size[0] else cv2.INTER_LINEAR
        result = self._cut(img, corner, window, self.fill, interpolation)
        return result if result.ndim == 3 else result[..., None]  # OpenCV drops a single channel

    def apply_to_mask(self, mask: NDArray[Any], corner: list[int], window: list[int], **params: Any) -> NDArray[Any]:
        return self._cut(mask, corner, window, (self.fill_mask,), cv2.INTER_NEAREST_EXACT)

    def _cut(
        self, array: NDArray[Any], corner: list[int], window: list[int], fill: tuple[float, ...], interpolation: int
    ) -> NDArray[Any]:
        (top, left), (height, width) = corner, window
        inside = array[max(0, top) : top + height, max(0, left) : left + width]
        before = max(0, -top), max(0, -left)
        after = height - before[0] - inside.shape[0], width - before[1] - inside.shape[1]
        if any((*before, *after)):
            inside = cv2.copyMakeBorder(
                inside, before[0], after[0], before[1], after[1], cv2.BORDER_CONSTANT, value=fill
            )
        if (height, width) == self.size:
            return np.ascontiguousarray(inside)
        return cv2.resize(inside, self.size[::-1], interpolation=interpolation)
