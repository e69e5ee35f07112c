"""Logits that may still have to be brought to their image's size."""

from dataclasses import dataclass
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor


class Resize(NamedTuple):
    """A bilinear resizing to height x width; `align_corners`: the outermost pixel centres fall on each other."""

    height: int
    width: int
    align_corners: bool = False


@dataclass(frozen=True)
class ScoreMap:
    """What a model says of images, at the resolution at which it said it.

    A network of stride 8 has a 64th of the logits that its label map has pixels. Kept like this, a map of 150 classes
    at 2048x1024 takes 20 MB instead of 1.3 GB, and can be read a few classes at a time.

    Attributes:
        values: [N, C, h, w] float32: logits, or log-probabilities, which are logits too.
        resizes: what brings `values` to the images' size, one after another.
    """

    values: Tensor
    resizes: tuple[Resize, ...] = ()

    @property
    def num_classes(self) -> int:
        return self.values.shape[1]

    def then(self, resize: Resize) -> "ScoreMap":
        """The map with one more resizing at its end."""
        return ScoreMap(self.values, (*self.resizes, resize))

    def full(self) -> Tensor:
        """[N, C, H, W] at the images' size."""
        return self.classes(0, self.num_classes)

    def classes(self, start: int, stop: int) -> Tensor:
        """[N, stop - start, H, W] at the images' size: the part of `full` for these classes, bit for bit."""
        # Contiguous, because torch has another kernel for channels_last, which may round otherwise.
        values = self.values[:, start:stop].contiguous()
        for height, width, align_corners in self.resizes:
            if values.shape[-2:] != (height, width):
                values = F.interpolate(values, size=(height, width), mode="bilinear", align_corners=align_corners)
        return values
