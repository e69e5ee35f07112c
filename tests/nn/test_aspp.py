"""Atrous spatial pyramid pooling, worked by hand."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from segtrain.errors import ConfigError
from segtrain.nn.aspp import ASPP, AtrousClassifier, ImagePooling, SummedASPP
from segtrain.nn.conv import ConvNormAct

plain = partial(ConvNormAct, batch_norm=True)


def aspp(atrous_rates=(1, 2), out_channels=4, image_pooling=True, dropout=0.0):
    return ASPP(3, out_channels, atrous_rates, image_pooling=image_pooling, dropout=dropout, conv=plain)


def test_summed_classifiers_of_ones_count_the_pixels_their_taps_meet():
    layer = SummedASPP(1, 1, [1, 3], branch_channels=None, dropout=0.0)
    for parameter in layer.parameters():
        nn.init.ones_(parameter)
    # Rate 1 meets 9, 6 or 4 pixels of a 3x3 map of ones, rate 3 only the middle one; each classifier's bias adds 1.
    assert layer(torch.ones(1, 1, 3, 3)).flatten().tolist() == [n + 1 + 1 + 1 for n in (4, 6, 4, 6, 9, 6, 4, 6, 4)]


def test_branches_with_channels_are_fc6_fc7_and_a_classifier():
    torch.manual_seed(0)
    branch = AtrousClassifier(3, 2, rate=2, branch_channels=5, dropout=0.5).eval()
    x = torch.randn(1, 3, 7, 6)
    fc6 = F.relu(F.conv2d(x, branch.fc6.conv.weight, branch.fc6.conv.bias, padding=2, dilation=2))
    fc7 = F.relu(F.conv2d(fc6, branch.fc7.conv.weight, branch.fc7.conv.bias))
    torch.testing.assert_close(branch(x), F.conv2d(fc7, branch.classifier.weight, branch.classifier.bias))


@pytest.mark.parametrize("branch_channels", [None, 64])
def test_classifiers_start_small(branch_channels):
    torch.manual_seed(0)
    branch = AtrousClassifier(64, 100, 1, branch_channels, dropout=0.0)
    assert branch.classifier.weight.std().item() == pytest.approx(0.01, rel=0.02)
    assert not branch.classifier.bias.any()


def test_image_pooling_says_the_same_at_every_pixel():
    torch.manual_seed(0)
    layer, x = ImagePooling(3, 2).eval(), torch.randn(2, 3, 4, 5)
    pooled = F.relu(layer.norm(F.conv2d(F.adaptive_avg_pool2d(x, 1), layer.conv.weight)))
    torch.testing.assert_close(layer(x), pooled.expand(2, 2, 4, 5))


def test_image_pooling_of_one_image_trains():
    layer = ImagePooling(3, 2)
    layer(torch.randn(1, 3, 4, 5)).sum().backward()
    assert layer.conv.weight.grad is not None


def test_branches_are_concatenated_in_order_and_projected():
    layer, x = aspp([1, 2]).eval(), torch.randn(1, 3, 6, 5)
    one, near, far, pooled = layer.branches
    assert (one.conv.kernel_size, near.conv.dilation, far.conv.dilation) == ((1, 1), (1, 1), (2, 2))
    expected = layer.project(torch.cat([one(x), near(x), far(x), pooled(x)], dim=1))
    assert torch.equal(layer(x), expected)


@pytest.mark.parametrize(
    "options", [{"atrous_rates": []}, {"atrous_rates": [6, 0]}, {"dropout": 1.0}, {"out_channels": 0}]
)
def test_numbers_out_of_range_are_refused(options):
    with pytest.raises(ConfigError, match=r"model\.(atrous_rates|dropout|channels)="):
        aspp(**options)


def test_branches_without_channels_are_refused():
    with pytest.raises(ConfigError, match=r"model\.branch_channels=0"):
        SummedASPP(3, 2, [6], branch_channels=0, dropout=0.5)


def test_dropout_where_there_is_nothing_to_drop_is_refused():
    with pytest.raises(ConfigError, match=r"model\.dropout=0\.5: belongs to fc6 and fc7"):
        SummedASPP(3, 2, [6], branch_channels=None, dropout=0.5)
