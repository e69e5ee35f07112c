"""Small data sets, with an option or two changed."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from segtrain.data.folder import Folder
from segtrain.data.shapes import Shapes

SHAPES = ["background", "disc", "square", "triangle", "ring", "cross", "bar"]


def save(path: Path, values: Sequence | np.ndarray, **options: object) -> Path:
    """Writes uint8 values as a picture; the suffix says the format."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(values, dtype=np.uint8)).save(path, **options)
    return path


def folder(root: Path, split: str = "train", **changes: object) -> Folder:
    """A `Folder` of the classes a and b, all of it in train."""
    options = {
        "images": "images",
        "masks": "masks",
        "splits": {"train": 1.0},
        "split_seed": 0,
        "classes": ["a", "b"],
        "palette": None,
        "labels": None,
        "mask_format": "index",
        "ignore_index": 255,
        "in_channels": 3,
    }
    return Folder(root=root, split=split, **(options | changes))


def shapes(split: str = "train", **changes: object) -> Shapes:
    """`Shapes` of 48x64 pixels with all classes."""
    options = {
        "size": [48, 64],
        "num_train": 12,
        "num_val": 6,
        "drawing_seed": 0,
        "classes": SHAPES,
        "palette": None,
        "ignore_index": 255,
        "in_channels": 3,
    }
    return Shapes(split=split, **(options | changes))
