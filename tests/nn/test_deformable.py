"""Deformable convolution: against loops, and equal to the plain convolution where it starts."""

import math

import pytest
import torch
from torch import nn
from torch.func import functional_call

from segtrain.nn.deformable import DeformableConv2d, make_deformable

over_versions = pytest.mark.parametrize("version", [1, 2])
over_kinds = pytest.mark.parametrize(
    "options",
    [{}, {"stride": 2}, {"dilation": 2, "padding": 2}, {"groups": 2, "bias": False}],
    ids=["plain", "strided", "dilated", "grouped"],
)


def conv(**options):
    torch.manual_seed(0)
    return nn.Conv2d(4, 6, 3, **{"padding": 1} | options)


def bent(layer):
    """The layer with random offsets and masks."""
    nn.init.normal_(layer.offset.weight, std=0.3)
    nn.init.normal_(layer.offset.bias)
    return layer


def sampled(channel, y, x):
    """The value of a map [H, W] between its pixels, 0 outside."""
    top, left, value = math.floor(y), math.floor(x), 0.0
    for row, row_share in ((top, top + 1 - y), (top + 1, y - top)):
        for column, column_share in ((left, left + 1 - x), (left + 1, x - left)):
            if 0 <= row < channel.shape[0] and 0 <= column < channel.shape[1]:
                value += row_share * column_share * channel[row, column].item()
    return value


def by_loops(layer, x, version):
    """The formula of the papers, a tap at a time, for one image."""
    guide, (image,) = layer.offset(x)[0], x
    result = torch.zeros(layer.out_channels, *guide.shape[1:])
    per_group_in, per_group_out = (n // layer.groups for n in (layer.in_channels, layer.out_channels))
    (stride, _), (padding, _), (dilation, _) = layer.stride, layer.padding, layer.dilation
    for out_channel, i, j in torch.cartesian_prod(*map(torch.arange, result.shape)).tolist():
        total = 0.0 if layer.bias is None else layer.bias[out_channel].item()
        for tap in range(9):
            dy, dx = guide[2 * tap : 2 * tap + 2, i, j].tolist()
            mask = 2 / (1 + math.exp(-guide[18 + tap, i, j])) if version == 2 else 1
            y = i * stride - padding + (tap // 3) * dilation + dy
            x = j * stride - padding + (tap % 3) * dilation + dx
            for n in range(per_group_in):
                channel = image[out_channel // per_group_out * per_group_in + n]
                total += mask * layer.weight[out_channel, n, tap // 3, tap % 3].item() * sampled(channel, y, x)
        result[out_channel, i, j] = total
    return result[None]


@over_versions
@over_kinds
def test_it_computes_the_formula_of_the_papers(version, options):
    layer, x = bent(DeformableConv2d(conv(**options), version)), torch.randn(1, 4, 4, 5)
    with torch.no_grad():
        torch.testing.assert_close(layer(x), by_loops(layer, x, version), atol=1e-5, rtol=1e-5)


@over_versions
@over_kinds
def test_it_starts_equal_to_the_plain_convolution(version, options):
    plain, x = conv(**options), torch.randn(2, 4, 7, 10)
    torch.testing.assert_close(DeformableConv2d(plain, version)(x), plain(x), atol=1e-5, rtol=1e-5)


@over_versions
def test_gradients_equal_finite_differences(version):
    layer = bent(DeformableConv2d(conv(stride=2), version)).double()
    x = torch.randn(1, 4, 4, 3, dtype=torch.double, requires_grad=True)
    guide = layer.offset.weight.detach().requires_grad_()
    assert torch.autograd.gradcheck(lambda x, guide: functional_call(layer, {"offset.weight": guide}, x), (x, guide))


@over_versions
def test_a_new_layer_learns_where_to_look_from_its_first_step(version):
    layer = DeformableConv2d(conv(), version)
    layer(torch.randn(2, 4, 5, 5)).square().sum().backward()
    assert layer.offset.weight.grad.flatten(1).any(dim=1).all()
    assert layer.offset.bias.grad.all()


@over_versions
def test_under_autocast_taps_are_placed_in_float32_and_the_result_is_bfloat16(version):
    layer, x = bent(DeformableConv2d(conv(), version)), torch.randn(2, 4, 6, 6)
    expected = layer(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = layer(x)
    assert result.dtype == torch.bfloat16
    result.float().sum().backward()
    assert layer.offset.weight.grad.any()
    torch.testing.assert_close(result.float(), expected, atol=0.1, rtol=0.1)


def test_shapes_are_known_on_the_meta_device():
    with torch.device("meta"):
        layer = DeformableConv2d(nn.Conv2d(4, 6, 3, stride=2, padding=1), version=2)
    assert layer.offset.weight.device.type == "meta"
    assert layer(torch.empty(2, 4, 9, 8, device="meta")).shape == (2, 6, 5, 4)


def test_conversion_keeps_parameters_and_their_names_and_draws_no_random_numbers():
    stage = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Sequential(nn.Conv2d(4, 4, 3, padding=1, bias=False)))
    plain, state = dict(stage.named_parameters()), torch.get_rng_state()
    make_deformable(stage, version=1)
    assert torch.equal(torch.get_rng_state(), state)
    after = dict(stage.named_parameters())
    assert after.keys() - plain.keys() == {"1.0.offset.weight", "1.0.offset.bias"}
    assert all(after[name] is parameter for name, parameter in plain.items())
    assert [type(layer) for layer in (stage[0], stage[1][0])] == [nn.Conv2d, DeformableConv2d]


@pytest.mark.parametrize(("version", "channels"), [(1, 18), (2, 27)])
def test_nine_taps_have_two_offsets_each_and_in_version_2_a_mask(version, channels):
    assert DeformableConv2d(conv(), version).offset.out_channels == channels
