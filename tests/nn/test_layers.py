"""Layers: what they compute, worked by hand or against torch."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from segtrain.errors import ConfigError
from segtrain.nn.conv import ConvNormAct, ScoreConv2d
from segtrain.nn.dilation import stride_to_dilation
from segtrain.nn.init import he_init
from segtrain.nn.norm import BatchNorm2d
from segtrain.nn.normalize import Normalize
from segtrain.nn.resize import resize_to


def test_convolution_has_a_bias_only_without_batch_norm():
    assert list(ConvNormAct(3, 4, batch_norm=True).state_dict()) == [
        "conv.weight",
        *(f"norm.{name}" for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")),
    ]
    assert list(ConvNormAct(3, 4, batch_norm=False).state_dict()) == ["conv.weight", "conv.bias"]


@pytest.mark.parametrize(("kernel_size", "stride", "dilation"), [(1, 1, 1), (3, 2, 1), (3, 1, 4), (7, 2, 1), (3, 2, 2)])
def test_convolution_gives_the_size_over_the_stride_rounded_up(kernel_size, stride, dilation):
    layer = ConvNormAct(1, 2, kernel_size, batch_norm=False, stride=stride, dilation=dilation)
    assert layer(torch.zeros(1, 1, 9, 12)).shape == (1, 2, math.ceil(9 / stride), math.ceil(12 / stride))


def test_scores_of_very_many_channels_survive_bf16_on_the_cpu():
    score, x = ScoreConv2d(4096, 7, 1), torch.randn(2, 4096, 2, 2)
    expected = score(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        scores = score(x)
    scores.square().mean().backward()  # a plain Conv2d corrupts the heap here where the CPU has AMX
    assert torch.equal(scores, expected)


def test_batch_norm_equals_torch_wherever_torch_is_defined():
    ours, torchs, x = BatchNorm2d(3), nn.BatchNorm2d(3), torch.randn(1, 3, 1, 2)
    assert torch.equal(ours(x), torchs(x))
    assert torch.equal(ours.running_var, torchs.running_var)
    assert torch.equal(ours.eval()(x[..., :1]), torchs.eval()(x[..., :1]))


def test_batch_norm_of_one_value_per_channel_uses_the_running_statistics_and_leaves_them():
    norm = BatchNorm2d(1, eps=0.0)
    norm.running_mean.fill_(1.0)
    norm.running_var.fill_(4.0)
    assert norm(torch.tensor([[[[7.0]]]])).item() == 3.0  # (7 - 1) / sqrt(4)
    assert (norm.running_mean.item(), norm.running_var.item(), norm.num_batches_tracked.item()) == (1.0, 4.0, 0)


def test_resize_takes_the_size_of_a_tensor_or_a_pair():
    x, like = torch.randn(1, 2, 3, 4), torch.empty(5, 1, 7, 9)
    expected = F.interpolate(x, size=(7, 9), mode="bilinear", align_corners=False)
    assert torch.equal(resize_to(x, like), expected)
    assert torch.equal(resize_to(x, (7, 9)), expected)


def test_resize_to_its_own_size_copies_nothing():
    x = torch.randn(1, 2, 3, 4)
    assert resize_to(x, x) is x


def test_normalisation_by_hand():
    images = torch.tensor([0, 51, 255], dtype=torch.uint8).view(1, 3, 1, 1)
    normalised = Normalize(mean=[0.5, 0.2, 0.0], std=[0.25, 0.1, 2.0])(images)
    assert normalised.dtype == torch.float32
    assert normalised.flatten().tolist() == pytest.approx([-2.0, 0.0, 0.5], abs=1e-6)


def test_normalisation_keeps_channels_last_and_leaves_the_bytes_alone():
    images = torch.randint(0, 256, (2, 3, 4, 5), dtype=torch.uint8).to(memory_format=torch.channels_last)
    before = images.clone()
    assert Normalize([0.5] * 3, [0.5] * 3)(images).is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(images, before)


def test_normalisation_is_no_part_of_the_state_dict():
    assert Normalize([0.5], [0.5]).state_dict() == {}


@pytest.mark.parametrize(("mean", "std"), [([0.5] * 3, [0.5]), ([0.5], [0.5]), ([0.5] * 3, [0.5, 0.0, 0.5])])
def test_normalisation_refuses_values_that_do_not_match_the_channels(mean, std):
    with pytest.raises(ConfigError, match=r"mean|std"):
        Normalize(mean, std)(torch.zeros(1, 3, 2, 2, dtype=torch.uint8))


@pytest.mark.parametrize(
    ("layer", "fan_in"),
    [
        (nn.Conv2d(64, 128, 3), 576),  # the paper's own example: 3x3 convolution, 64 channels, N = 576
        (nn.Conv2d(64, 256, 3, groups=4), 144),
        (nn.ConvTranspose2d(256, 128, 2, stride=2), 256),  # kernels do not overlap: one tap per output
        (nn.ConvTranspose2d(256, 64, 4, stride=2), 1024),
    ],
)
def test_he_initialisation_has_the_published_deviation_and_no_bias(layer, fan_in):
    torch.manual_seed(0)
    he_init(layer)
    assert layer.weight.std().item() == pytest.approx(math.sqrt(2 / fan_in), rel=0.02)
    assert layer.bias.abs().max().item() == 0


def test_dilated_stages_compute_at_every_pixel_what_strided_ones_compute_at_some():
    torch.manual_seed(0)
    plain = nn.Conv2d(1, 2, 3, padding=1), nn.Conv2d(2, 2, 3, stride=2, padding=1), nn.Conv2d(2, 3, 3, padding=1)
    strided = nn.Sequential(*plain)
    x = torch.randn(1, 1, 15, 15)
    sparse = strided(x)
    assert stride_to_dilation(strided) == 2
    assert [conv.dilation[0] for conv in strided] == [1, 1, 2]
    torch.testing.assert_close(strided(x)[..., ::2, ::2], sparse)
