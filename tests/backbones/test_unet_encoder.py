"""U-Net's contracting path."""

import copy

import pytest
import torch

from segtrain.backbones.unet_encoder import UNetEncoder
from segtrain.errors import ConfigError
from segtrain.types import Feature


def encoder(**options):
    plain = {"in_channels": 3, "channels": [4, 8, 16], "batch_norm": False, "residual": False, "dropout": 0.0}
    return UNetEncoder(**plain | options)


def test_levels_declare_their_channels_and_strides():
    assert encoder().features == (Feature("level1", 4, 1), Feature("level2", 8, 2), Feature("level3", 16, 4))


def test_a_feature_is_found_by_name_and_by_stride():
    backbone = encoder()
    assert backbone.feature("level2") == backbone.feature(stride=2) == Feature("level2", 8, 2)
    assert backbone.deepest.name == "level3"


def test_asking_for_a_feature_that_is_not_there_names_those_that_are():
    with pytest.raises(ConfigError, match=r"no feature called 'levl2', only level1 \(stride 1\).*mean 'level2'"):
        encoder().feature("levl2")
    with pytest.raises(ConfigError, match=r"no feature with stride 32, only level1 \(stride 1\), level2"):
        encoder().feature(stride=32)


@pytest.mark.parametrize("residual", [False, True])
def test_odd_sizes_are_rounded_up(residual):
    sizes = [tuple(x.shape[-2:]) for x in encoder(residual=residual)(torch.zeros(1, 3, 5, 1)).values()]
    assert sizes == [(5, 1), (3, 1), (2, 1)]


def test_dropout_zeroes_values_of_the_deepest_level_in_training_only():
    torch.manual_seed(0)
    backbone, images = encoder(dropout=0.5), torch.randn(1, 3, 16, 16)
    shares = {name: (x == 0).float().mean() for name, x in backbone.eval()(images).items()}
    for name, x in backbone.train()(images).items():
        grown = (x == 0).float().mean() > shares[name]
        assert grown == (name == "level3")


@pytest.mark.parametrize("residual", [False, True])
def test_activation_checkpointing_changes_neither_gradients_nor_statistics(residual):
    torch.manual_seed(0)
    plain, images = encoder(residual=residual, batch_norm=True), torch.randn(2, 3, 9, 12)
    saving = copy.deepcopy(plain)
    saving.recompute = True
    for backbone in (plain, saving):
        sum(x.square().mean() for x in backbone(images).values()).backward()
    for ours, expected in zip(saving.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, expected.grad)
    assert all(map(torch.equal, saving.buffers(), plain.buffers()))


def test_a_residual_level_without_batch_norm_leaves_what_it_reads_as_it_is():
    backbone, images = encoder(residual=True), torch.randn(1, 3, 8, 8)
    features = backbone(images)
    assert torch.equal(features["level1"], backbone.levels[0](images))
    assert (features["level1"] < 0).any()


@pytest.mark.parametrize("options", [{"channels": []}, {"channels": [4, 0]}, {"dropout": 1.0}])
def test_impossible_options_name_their_key(options):
    with pytest.raises(ConfigError, match=f"model.backbone.{next(iter(options))}="):
        encoder(**options)
