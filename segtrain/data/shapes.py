"""Shapes: pictures drawn on demand, to learn from and to test with, where nothing can be downloaded.

Discs, squares, triangles, rings, crosses and bars, tilted, of several sizes and partly hidden by each other, lie on
a background without strong colour. Two classes each share a colour, and half of all classes a smooth or a patterned
texture, so neither tells the class by itself; a few objects have a strange surface, and only their outline does.
Classes are far from balanced, and a thin rim around every object is ignored, as in VOC.
"""

import colorsys
import hashlib
from collections.abc import Callable

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from segtrain.data.dataset import LabelledDataset
from segtrain.errors import ConfigError, DataError, nearest
from segtrain.types import Sample

Mask = NDArray[np.uint8]

_STRANGE = 0.04  # share of objects with any colour and texture instead of their class's
_RARER = 0.75  # every class is this much as frequent as the one before
_SMOOTH, _PATTERNED = ("plain", "grain"), ("stripes", "checks")


class Shapes(LabelledDataset):
    """Procedural pictures: item i of a split is a function of (drawing_seed, split, i) alone.

    Args:
        split: train or val.
        size: height, width in pixels, 32 or more each.
        num_train: pictures in train.
        num_val: pictures in val.
        drawing_seed: another seed draws other pictures.
        classes: background first, then any of disc, square, triangle, ring, cross, bar; later ones are rarer.
        palette, ignore_index, in_channels: see `ImageMaskDataset`.

    Raises:
        ConfigError: an unknown class, a size that is too small, or other channels than 1 or 3.
        DataError: an unknown or empty split.
    """

    def __init__(
        self,
        split: str,
        size: list[int],
        num_train: int,
        num_val: int,
        drawing_seed: int,
        classes: list[str],
        palette: list[list[int]] | None,
        ignore_index: int,
        in_channels: int,
    ) -> None:
        super().__init__(classes, palette, ignore_index, in_channels)
        if in_channels not in (1, 3):
            raise ConfigError(f"data.in_channels={in_channels}: shapes are drawn in 3 channels (RGB) or 1 (grey)")
        lengths = {"train": num_train, "val": num_val}
        if split not in lengths:
            raise DataError(f"data=shapes has the splits train and val, not {split!r}{nearest(split, lengths)}")
        if lengths[split] < 1:
            raise DataError(f"data.num_{split}={lengths[split]}: the data set is empty; draw 1 picture or more")
        if len(size) != 2 or min(size) < 32:
            raise ConfigError(f"data.size={list(size)}: give [height, width], each 32 or more")
        if len(classes) < 2 or classes[0] != "background":
            raise ConfigError(f"data.classes={list(classes)}: begin with background, then name one shape or more")
        for name in classes[1:]:
            if name not in _OUTLINES:
                raise ConfigError(f"data.classes: no shape is called {name!r}{nearest(name, _OUTLINES)}")
        if 0 <= ignore_index < len(classes) or not 0 <= ignore_index <= 255:
            raise ConfigError(f"data.ignore_index={ignore_index}: must be in [{len(classes)}, 255]")
        self.split = split
        self.size = (size[0], size[1])
        self.drawing_seed = drawing_seed
        self._names = tuple(f"{split}_{index:05d}" for index in range(lengths[split]))

    def __len__(self) -> int:
        return len(self._names)

    def names(self) -> tuple[str, ...]:
        return self._names

    def read_labels(self, index: int) -> NDArray[np.integer]:
        return self.read(index).labels

    def read(self, index: int) -> Sample:
        digest = hashlib.blake2b(f"{self.drawing_seed}|{self.split}|{index}".encode(), digest_size=8).digest()
        rng = np.random.default_rng(int.from_bytes(digest, "little"))
        dull = rng.uniform(50, 190) + rng.uniform(-20, 20, size=3)
        image = _texture(rng, self.size, dull, contrast=rng.uniform(5, 20), kinds=_SMOOTH + _PATTERNED)
        labels = np.zeros(self.size, dtype=np.uint8)
        objects = np.zeros(self.size, dtype=np.uint8)  # which object is seen, 0 where none is
        for number, label in enumerate(self._draw_labels(rng, index), start=1):
            mask, box = _draw_outline(rng, self.class_names[label], self.size)
            inside = mask > 0
            image[box][inside] = self._draw_surface(rng, label, mask.shape)[inside]
            labels[box][inside] = label
            objects[box][inside] = number
        # Where neighbours belong to different objects: a rim of one pixel on either side of every visible outline.
        square = np.ones((3, 3), dtype=np.uint8)
        labels[cv2.dilate(objects, square) != cv2.erode(objects, square)] = self.ignore_index
        image = np.asarray(cv2.GaussianBlur(image, (3, 3), 0.7), dtype=np.float32)  # no knife edges, as through a lens
        noise = rng.standard_normal(image.shape, dtype=np.float32) * rng.uniform(3, 10)
        picture = np.clip(image + noise, 0, 255).astype(np.uint8)
        if self.in_channels == 1:
            picture = np.asarray(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), dtype=np.uint8)[..., None]
        return Sample(picture, labels, self._names[index])

    def _draw_labels(self, rng: Generator, index: int) -> list[int]:
        """Which shapes, from the farthest to the nearest. Classes take turns in front, so that none is ever absent."""
        num_shapes = len(self.class_names) - 1
        frequency = _RARER ** np.arange(num_shapes)
        behind = rng.choice(num_shapes, size=rng.integers(2, 6), p=frequency / frequency.sum())
        return [int(label) + 1 for label in (*behind, index % num_shapes)]

    def _draw_surface(self, rng: Generator, label: int, size: tuple[int, ...]) -> NDArray[np.float32]:
        """[H, W, 3] in the colour and texture of a class, seldom of another."""
        num_shapes = len(self.class_names) - 1
        looks_like = int(rng.integers(num_shapes)) if rng.random() < _STRANGE else label - 1
        hue = looks_like // 2 / ((num_shapes + 1) // 2) + rng.normal(0, 0.04)  # in turns of the colour circle
        colour = 255 * np.array(colorsys.hsv_to_rgb(hue % 1, rng.uniform(0.4, 0.9), rng.uniform(0.5, 0.95)))
        return _texture(rng, size, colour, contrast=rng.uniform(25, 45), kinds=(_SMOOTH, _PATTERNED)[looks_like % 2])


def _draw_outline(rng: Generator, shape: str, size: tuple[int, int]) -> tuple[Mask, tuple[slice, slice]]:
    """A tilted shape of random size and place: its mask (255 inside) and the box of the picture that this covers."""
    radius = min(size) * rng.uniform(0.11, 0.26)
    centre = size[1] * rng.uniform(0.05, 0.95), size[0] * rng.uniform(0.05, 0.95)  # x, y
    angle = rng.uniform(-0.4, 0.4)  # radians
    reach = int(np.ceil(1.5 * radius)) + 1  # the farthest point of any shape is 1.45 radii away
    left, top = max(0, int(centre[0]) - reach), max(0, int(centre[1]) - reach)
    right, bottom = min(size[1], int(centre[0]) + reach + 1), min(size[0], int(centre[1]) + reach + 1)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    mask = np.zeros((bottom - top, right - left), dtype=np.uint8)
    for outline, value in _OUTLINES[shape](rng):
        points = radius * outline @ turn.T + (centre[0] - left, centre[1] - top)
        cv2.fillPoly(mask, [np.rint(points * 16).astype(np.int32)], value, shift=4)  # in 1/16 pixels
    return mask, (slice(top, bottom), slice(left, right))


Outlines = list[
    tuple[NDArray[np.float64], int]
]  # polygons in radii around (0, 0), each filled with 255, or cut out by 0


def _circle(radius: float, stretch: float = 1.0) -> NDArray[np.float64]:
    angles = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    return radius * np.stack([np.cos(angles) * stretch, np.sin(angles)], axis=1)


def _box(half_width: float, half_height: float) -> NDArray[np.float64]:
    return np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * (half_width, half_height)


def _disc(rng: Generator) -> Outlines:
    return [(_circle(1.0, stretch=rng.uniform(0.75, 1.0)), 255)]


def _square(rng: Generator) -> Outlines:
    return [(_box(0.9 * rng.uniform(0.8, 1.0), 0.9), 255)]


def _triangle(rng: Generator) -> Outlines:
    angles = np.array([0.25, 0.5 + rng.uniform(0.04, 0.12), 1 - rng.uniform(0.04, 0.12)]) * 2 * np.pi
    return [(1.25 * np.stack([np.cos(angles), np.sin(angles)], axis=1), 255)]


def _ring(rng: Generator) -> Outlines:
    return [(_circle(1.1), 255), (_circle(rng.uniform(0.5, 0.65)), 0)]


def _cross(rng: Generator) -> Outlines:
    width = rng.uniform(0.3, 0.4)
    return [(_box(1.15, width), 255), (_box(width, 1.15), 255)]


def _bar(rng: Generator) -> Outlines:
    return [(_box(1.4, rng.uniform(0.35, 0.45)), 255)]


_OUTLINES: dict[str, Callable[[Generator], Outlines]] = {
    "disc": _disc,
    "square": _square,
    "triangle": _triangle,
    "ring": _ring,
    "cross": _cross,
    "bar": _bar,
}


def _texture(
    rng: Generator, size: tuple[int, ...], colour: NDArray[np.float64], contrast: float, kinds: tuple[str, ...]
) -> NDArray[np.float32]:
    """[H, W, 3] float32, about 0..255: a colour, varied by clouds, and lighter and darker by a pattern of some kind."""
    height, width = size[:2]
    clouds = cv2.resize(
        rng.uniform(-15, 15, (4, 4, 3)).astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC
    )
    texture = np.asarray(clouds, dtype=np.float32) + colour.astype(np.float32)
    pattern = _pattern(rng, height, width, kinds[rng.integers(len(kinds))])
    return texture if pattern is None else texture + np.float32(contrast) * pattern[..., None]


def _pattern(rng: Generator, height: int, width: int, kind: str) -> NDArray[np.float32] | None:
    """[H, W] in -1..1, None for a plain surface; stripes and checks are turned and 6 to 11 pixels apart."""
    if kind == "plain":
        return None
    if kind == "grain":
        return rng.uniform(-0.5, 0.5, (height, width)).astype(np.float32)
    angle, factor = rng.uniform(0, np.pi), 2 * np.pi / rng.uniform(6, 11)
    cosine, sine = np.float32(factor * np.cos(angle)), np.float32(factor * np.sin(angle))
    y, x = np.arange(height, dtype=np.float32)[:, None], np.arange(width, dtype=np.float32)
    stripes = np.sin(cosine * x + sine * y)
    return stripes if kind == "stripes" else np.sign(stripes) * np.sign(np.sin(cosine * y - sine * x))
