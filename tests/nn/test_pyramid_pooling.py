"""Pyramid pooling, cell by cell."""

import pytest
import torch
import torch.nn.functional as F

from segtrain.errors import ConfigError
from segtrain.nn.pyramid_pooling import PyramidPooling


def mean(x):
    return x.mean(dim=(2, 3))


def cells(x, rows, columns, reduction):
    """[1, C, H, W] -> [1, C, rows, columns]: row i goes from floor(i H / rows) to ceil((i + 1) H / rows)."""
    height, width = x.shape[-2:]
    pooled = torch.empty(1, x.shape[1], rows, columns)
    for i in range(rows):
        for j in range(columns):
            row = slice(i * height // rows, -(-(i + 1) * height // rows))
            column = slice(j * width // columns, -(-(j + 1) * width // columns))
            pooled[:, :, i, j] = reduction(x[:, :, row, column])
    return pooled


def bilinear(x, size):
    return F.interpolate(x, size=size, mode="bilinear", align_corners=False)


@pytest.mark.parametrize(("pooling", "reduction"), [("average", mean), ("max", lambda x: x.amax(dim=(2, 3)))])
def test_a_level_is_its_cells_beside_the_map(pooling, reduction):
    torch.manual_seed(0)
    x = torch.randn(1, 4, 7, 11)
    expected = [x, *(bilinear(cells(x, bins, bins, reduction), (7, 11)) for bins in (1, 2, 3, 6))]
    torch.testing.assert_close(PyramidPooling(4, None, [1, 2, 3, 6], pooling)(x), torch.cat(expected, dim=1))


def test_levels_share_the_channels_of_the_map_unless_they_are_not_reduced():
    assert PyramidPooling(2048, 512, [1, 2, 3, 6], "average").out_channels == 4096
    assert PyramidPooling(2048, None, [1, 2, 3, 6], "average").out_channels == 5 * 2048


def test_a_grid_is_not_finer_than_the_map():
    pyramid = PyramidPooling(1, None, [6], "average")
    x = torch.randn(1, 1, 4, 9)
    expected = bilinear(cells(x, 4, 6, mean), (4, 9))
    torch.testing.assert_close(pyramid(x), torch.cat([x, expected], dim=1))


@pytest.mark.parametrize("bins", [[], [0, 2]])
def test_bins_are_positive_numbers(bins):
    with pytest.raises(ConfigError, match=r"model.bins=.*positive numbers"):
        PyramidPooling(4, None, bins, "average")
