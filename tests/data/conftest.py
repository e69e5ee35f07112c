"""Small pictures on disk."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from data_files import save


@pytest.fixture
def write_folder(tmp_path: Path) -> Callable[..., Path]:
    """`write_folder({"a": mask values, ...})` writes images/a.jpg (grey) and masks/a.png of the same size."""

    def write(masks: dict[str, Sequence], root: Path = tmp_path) -> Path:
        for name, values in masks.items():
            mask = np.asarray(values, dtype=np.uint8)
            save(root / "images" / f"{name}.jpg", np.full((*mask.shape, 3), 90))
            save(root / "masks" / f"{name}.png", mask)
        return root

    return write
