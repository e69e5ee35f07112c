"""Bilinear upsampling, fixed and as the start of a learned one."""

import pytest
import torch
import torch.nn.functional as F
from torch import tensor

from segtrain.nn.upsampling import BilinearUpsampling, LearnedUpsampling, bilinear_kernel


def test_kernel_is_a_tent_in_each_direction():
    tent = tensor([0.25, 0.75, 0.75, 0.25])
    assert torch.equal(bilinear_kernel(2), torch.outer(tent, tent))
    torch.testing.assert_close(bilinear_kernel(3)[2], tensor([1, 2, 3, 2, 1]) / 3)


@pytest.mark.parametrize("factor", [1, 2, 3, 8, 32])
def test_learned_upsampling_starts_as_bilinear_interpolation_at_the_border_too(factor):
    x = torch.randn(2, 3, 4, 5)
    expected = F.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=False)
    torch.testing.assert_close(LearnedUpsampling(3, factor)(x), expected)
    torch.testing.assert_close(BilinearUpsampling(factor)(x), expected)


@pytest.mark.parametrize("layer", [BilinearUpsampling(32), LearnedUpsampling(1, 32)], ids=["fixed", "learned"])
def test_a_ramp_is_reproduced_without_a_shift(layer):
    """Each input pixel holds the centre of the 32 output pixels it stands for: 15.5, 47.5, 79.5."""
    centres = 32 * torch.arange(3.0) + 15.5
    rows = layer(centres.view(1, 1, 3, 1).expand(1, 1, 3, 2))[0, 0, :, 0]
    torch.testing.assert_close(rows[16:80], torch.arange(16.0, 80.0))


def test_channels_do_not_mix():
    x = torch.zeros(1, 2, 3, 3)
    x[:, 0] = 1
    layer = LearnedUpsampling(2, 2)
    torch.nn.init.normal_(layer.weight)
    assert not layer(x)[:, 1].any()


def test_only_learned_upsampling_has_weights():
    assert [p.shape for p in LearnedUpsampling(21, 2).parameters()] == [(21, 1, 4, 4)]
    assert not list(BilinearUpsampling(2).parameters())
