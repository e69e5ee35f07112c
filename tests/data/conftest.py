"""Small pictures on disk, and small data sets with an option or two changed."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segtrain.data.folder import Folder
from segtrain.data.shapes import Shapes


@pytest.fixture(scope="session")
def save() -> Callable[..., Path]:
    """`save(path, values)` writes uint8 values as a picture; the suffix says the format."""

    def save(path: Path, values: Sequence | np.ndarray, **options: object) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.asarray(values, dtype=np.uint8)).save(path, **options)
        return path

    return save


@pytest.fixture(scope="session")
def touch(save: Callable[..., Path]) -> Callable[..., None]:
    """`touch(folder, "a.png", "b/c.png")` writes pictures of one pixel, of label 0."""

    def touch(folder: Path, *names: str) -> None:
        for name in names:
            save(folder / name, [[0]])

    return touch


@pytest.fixture
def write_folder(tmp_path: Path, save: Callable[..., Path]) -> Callable[..., Path]:
    """`write_folder({"a": mask values, ...})` writes images/a.jpg (grey) and masks/a.png of the same size."""

    def write(masks: dict[str, Sequence], root: Path = tmp_path) -> Path:
        for name, values in masks.items():
            mask = np.asarray(values, dtype=np.uint8)
            save(root / "images" / f"{name}.jpg", np.full((*mask.shape, 3), 90))
            save(root / "masks" / f"{name}.png", mask)
        return root

    return write


@pytest.fixture(scope="session")
def folder() -> Callable[..., Folder]:
    """`folder(root, split="train", **changes)`: a `Folder` of the classes a and b, all of it in train."""

    def folder(root: Path, split: str = "train", **changes: object) -> Folder:
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

    return folder


@pytest.fixture(scope="session")
def shapes() -> Callable[..., Shapes]:
    """`shapes(split="train", **changes)`: `Shapes` of 48x64 pixels with all seven classes."""

    def shapes(split: str = "train", **changes: object) -> Shapes:
        options = {
            "size": [48, 64],
            "num_train": 12,
            "num_val": 6,
            "drawing_seed": 0,
            "classes": ["background", "disc", "square", "triangle", "ring", "cross", "bar"],
            "palette": None,
            "ignore_index": 255,
            "in_channels": 3,
        }
        return Shapes(split=split, **(options | changes))

    return shapes
