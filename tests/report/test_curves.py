"""Curves as pictures."""

from pathlib import Path

import numpy as np
from PIL import Image

from segtrain.report.curves import save_range_curve


def test_marks_are_drawn_at_their_rate(tmp_path: Path) -> None:
    rates = [10.0 ** (i / 10 - 5) for i in range(41)]
    losses = [2.0 - 0.02 * i for i in range(41)]
    pictures = []
    for number, rate in enumerate((1e-4, 1e-2)):
        path = tmp_path / f"{number}.png"
        save_range_curve(path, rates, losses, losses, {"steepest": rate})
        pictures.append(np.array(Image.open(path).convert("RGB")).astype(int))
    assert pictures[0].shape == (600, 960, 3)
    green = np.array([44, 160, 44])  # matplotlib's tab:green
    columns = []
    for picture in pictures:
        near = (np.abs(picture - green).sum(axis=2) < 30)[200:560]  # below the legend
        columns.append(np.nonzero(near.sum(axis=0) > 100)[0].mean())
    # Two of four decades apart: half the width of the axes, which is most of the picture's.
    assert 0.35 * 960 < columns[1] - columns[0] < 0.5 * 960
