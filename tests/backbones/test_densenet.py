"""DenseNet: equal to torchvision's, strided and dilated."""

import re

import pytest
import torch
import torchvision
from torchvision.models.feature_extraction import create_feature_extractor

from segtrain.backbones.densenet import DenseNet
from segtrain.errors import CheckpointError, ConfigError

TAPS = {
    "features.relu0": "stem",
    "features.transition1.relu": "denseblock1",
    "features.transition2.relu": "denseblock2",
    "features.transition3.relu": "denseblock3",
    "relu": "denseblock4",
}


def densenet(in_channels=3, **options):
    defaults = {"name": "densenet121", "weights": None, "output_stride": 32, "dilate_strided": False}
    return DenseNet(in_channels, **defaults | options)


@pytest.fixture(scope="module")
def net(as_trained):
    """torchvision's network."""
    torch.manual_seed(0)
    return as_trained(torchvision.models.densenet121(weights=None))


@pytest.fixture(scope="module")
def saved(net, save):
    return save(net)


@torch.no_grad()
def test_features_equal_torchvisions(net, saved):
    images = torch.randn(2, 3, 64, 96)
    expected = create_feature_extractor(net, TAPS)(images)
    features = densenet(weights=saved).eval()(images)
    assert list(features) == list(expected) == list(TAPS.values())
    for name in features:
        assert torch.equal(features[name], expected[name]), name


def test_published_files_load_strictly_with_their_old_names(net, tmp_path):
    state = net.state_dict()
    old = {re.sub(r"(norm|relu|conv)([12])\.", r"\1.\2.", name): x for name, x in state.items()}
    assert "features.denseblock1.denselayer1.norm.1.weight" in old
    torch.save(old, tmp_path / "published.pth")
    loaded = densenet(weights=str(tmp_path / "published.pth")).net.state_dict()
    assert set(loaded) == {name for name in state if not name.startswith("classifier.")}
    assert all(torch.equal(loaded[name], state[name]) for name in loaded)


@pytest.mark.parametrize("output_stride", [8, 16])
def test_dilated_maps_equal_the_strided_ones_at_the_strided_pixels(saved, output_stride, assert_dilated_equals_strided):
    assert_dilated_equals_strided(densenet(weights=saved), densenet(output_stride=output_stride))


@pytest.mark.parametrize(("dilate_strided", "poolings"), [(False, (1, 1, 2)), (True, (1, 2, 4))])
def test_transitions_lose_their_stride_and_dense_layers_are_dilated(dilate_strided, poolings):
    layers = densenet(output_stride=8, dilate_strided=dilate_strided).net.features
    transitions = layers.transition1, layers.transition2, layers.transition3
    assert tuple(transition.pool.dilation for transition in transitions) == poolings
    for block, dilation in ((layers.denseblock2, 1), (layers.denseblock3, 2), (layers.denseblock4, 4)):
        assert {layer.conv2.dilation for layer in block.values()} == {(dilation, dilation)}


@pytest.mark.parametrize(
    ("name", "total", "width"),
    [
        ("densenet121", 7_978_856, 1024),
        ("densenet161", 28_681_000, 2208),
        ("densenet169", 14_149_480, 1664),
        ("densenet201", 20_013_928, 1920),
    ],
)
def test_parameters_are_torchvisions_without_the_classifier(name, total, width):
    # Totals from torchvision's meta data; the classifier has 1000 classes.
    with torch.device("meta"):
        backbone = densenet(name=name)
    assert backbone.deepest.channels == width
    assert sum(p.numel() for p in backbone.parameters()) == total - 1000 * (width + 1)


@pytest.mark.parametrize("in_channels", [1, 4])
def test_any_number_of_channels_goes_in(saved, in_channels):
    for weights in (None, saved):
        features = densenet(in_channels, weights=weights)(torch.randn(1, in_channels, 33, 33))
        assert features["denseblock4"].shape == (1, 1024, 2, 2)


def test_activation_checkpointing_changes_no_gradient(assert_recomputing_changes_no_gradient):
    assert_recomputing_changes_no_gradient(densenet(), torch.randn(2, 3, 33, 47))


def test_another_networks_weights_are_refused(saved):
    with pytest.raises(CheckpointError, match=r"model\.backbone\.weights: .* does not fit: "):
        densenet(name="densenet169", weights=saved)


def test_an_impossible_output_stride_names_the_possible_ones():
    with pytest.raises(ConfigError, match="output_stride=4: must be 8, 16 or 32"):
        densenet(output_stride=4)
