"""Pooling: torch's wherever torch rounds alike, a plain loop over windows everywhere else."""

import math

import pytest
import torch
from torch import nn

from segtrain.nn.dilation import stride_to_dilation
from segtrain.nn.pooling import AvgPool2d, MaxPool2d, convert_pooling

over_windows = pytest.mark.parametrize(
    ("kernel_size", "stride", "padding"), [(2, 2, 0), (3, 2, 1), (3, 2, 0), (3, 1, 1), (2, 1, 0), (1, 2, 0), (3, 4, 1)]
)
over_sizes = pytest.mark.parametrize("size", [(8, 12), (9, 13), (7, 8), (1, 1), (2, 5)], ids="{0[0]}x{0[1]}".format)
over_kinds = pytest.mark.parametrize("kind", [MaxPool2d, AvgPool2d])


def plain(pool, x):
    """What the docstrings say, window by window."""
    reduce = torch.amax if isinstance(pool, MaxPool2d) else torch.mean

    def inside(i, length):
        first = i * pool.stride - pool.padding * pool.dilation
        taps = (first + k * pool.dilation for k in range(pool.kernel_size))
        return [tap for tap in taps if 0 <= tap < length]

    height, width = x.shape[-2:]
    rows = [
        torch.stack(
            [
                reduce(x[..., inside(i, height), :][..., inside(j, width)], dim=(-2, -1))
                for j in range(math.ceil(width / pool.stride))
            ],
            dim=-1,
        )
        for i in range(math.ceil(height / pool.stride))
    ]
    return torch.stack(rows, dim=-2)


@over_kinds
@over_windows
@over_sizes
def test_every_window_counts_what_lies_inside_the_map(kind, kernel_size, stride, padding, size):
    torch.manual_seed(0)
    pool, x = kind(kernel_size, stride, padding), torch.randn(2, 3, *size)
    torch.testing.assert_close(pool(x), plain(pool, x))


@over_kinds
@pytest.mark.parametrize(("kernel_size", "padding"), [(2, 0), (3, 0), (3, 1)])
@pytest.mark.parametrize("dilation", [2, 4])
def test_pixels_of_a_dilated_window_are_dilation_apart(kind, kernel_size, padding, dilation):
    torch.manual_seed(0)
    pool, x = kind(kernel_size, 1, padding), torch.randn(2, 3, 7, 10)
    pool.dilation = dilation
    torch.testing.assert_close(pool(x), plain(pool, x))


@pytest.mark.parametrize(("kernel_size", "padding"), [(2, 0), (3, 1)])
def test_on_even_sizes_max_pooling_is_torchs(kernel_size, padding):
    x = torch.randn(2, 3, 8, 12)
    expected = nn.MaxPool2d(kernel_size, 2, padding)(x)
    assert torch.equal(MaxPool2d(kernel_size, 2, padding)(x), expected)


def test_on_even_sizes_average_pooling_is_torchs():
    x = torch.randn(2, 3, 8, 12)
    assert torch.equal(AvgPool2d(2, 2)(x), nn.AvgPool2d(2)(x))


@over_kinds
def test_odd_sizes_are_rounded_up(kind):
    assert kind(2, 2)(torch.zeros(1, 1, 33, 47)).shape == (1, 1, 17, 24)


def test_the_last_window_of_an_odd_size_by_hand():
    x = torch.tensor([[[[1.0, 2.0, 6.0]]]])
    assert MaxPool2d(2, 2)(-x).flatten().tolist() == [-1.0, -6.0]  # what lies outside is no 0
    assert AvgPool2d(2, 2)(x).flatten().tolist() == [1.5, 6.0]


@over_kinds
@pytest.mark.parametrize("size", [(16, 24), (17, 23)], ids=["even", "odd"])
@pytest.mark.parametrize(("kernel_size", "padding"), [(2, 0), (3, 1), (3, 0)])
def test_dilated_pooling_equals_strided_at_the_strided_pixels(kind, size, kernel_size, padding):
    torch.manual_seed(0)
    first = nn.Sequential(kind(kernel_size, 2, padding), nn.Conv2d(2, 2, 3, padding=1))
    second = nn.Sequential(kind(kernel_size, 2, padding), kind(3, 1, 1))
    x = torch.randn(1, 2, *size)
    sparse = second(first(x))
    assert stride_to_dilation(second, dilation=stride_to_dilation(first)) == 4
    assert [pool.dilation for pool in (first[0], *second)] == [1, 2, 4]
    dense = second(first(x))
    assert dense.shape[-2:] == size
    torch.testing.assert_close(dense[..., ::4, ::4], sparse)


def test_dilate_strided_spreads_the_pooling_that_loses_its_stride():
    stage = nn.Sequential(MaxPool2d(2, 2), MaxPool2d(3, 1, 1))
    stride_to_dilation(stage, dilation=2, dilate_strided=True)
    assert [pool.dilation for pool in stage] == [4, 4]


@over_kinds
@pytest.mark.parametrize("dilation", [1, 2])
def test_gradients_are_those_of_the_plain_loop(kind, dilation):
    torch.manual_seed(0)
    pool, x = kind(3, 1, 1), torch.randn(1, 2, 5, 7, requires_grad=True)
    pool.dilation = dilation
    weight = torch.randn(1, 2, 5, 7)
    ours, expected = (torch.autograd.grad((weight * y).sum(), x)[0] for y in (pool(x), plain(pool, x)))
    torch.testing.assert_close(ours, expected)


def test_converting_replaces_torchs_poolings_wherever_they_are():
    net = nn.Sequential(nn.MaxPool2d(3, 2, 1), nn.Sequential(nn.AvgPool2d(2)), nn.Conv2d(3, 3, 1))
    x = torch.randn(1, 3, 16, 16)
    expected = net(x)
    convert_pooling(net)
    assert torch.equal(net(x), expected)
    assert [type(layer) for layer in (net[0], net[1][0], net[2])] == [MaxPool2d, AvgPool2d, nn.Conv2d]
