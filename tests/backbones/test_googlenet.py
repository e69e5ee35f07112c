"""GoogLeNet: equal to torchvision's, input transform included."""

import pytest
import torch
import torchvision
from torchvision.models.feature_extraction import create_feature_extractor

from segtrain.backbones.googlenet import GoogLeNet
from segtrain.errors import CheckpointError, ConfigError

FEATURES = ["conv1", "conv3", "inception3b", "inception4a", "inception4d", "inception4e", "inception5b"]


def googlenet(in_channels=3, **options):
    return GoogLeNet(in_channels, **{"weights": None, "output_stride": 32, "dilate_strided": False} | options)


@pytest.fixture(scope="module")
def net(as_trained):
    """torchvision's network as its published weights want it."""
    torch.manual_seed(0)
    return as_trained(torchvision.models.GoogLeNet(transform_input=True, init_weights=False))


@pytest.fixture(scope="module")
def saved(net, save):
    return save(net)


@torch.no_grad()
def test_features_equal_torchvisions_with_its_input_transform(net, saved):
    images = torch.randn(2, 3, 64, 96)
    expected = create_feature_extractor(net, FEATURES, suppress_diff_warning=True)(images)
    features = googlenet(weights=saved).eval()(images)
    assert list(features) == FEATURES
    for name in FEATURES:
        torch.testing.assert_close(features[name], expected[name])


def test_weights_load_strictly_and_set_the_input_transform_by_hand(net, saved):
    published, state = net.state_dict(), googlenet(weights=saved).state_dict()
    scale, shift = state.pop("transform_input.scale"), state.pop("transform_input.shift")
    assert scale.tolist() == pytest.approx([0.458, 0.448, 0.45])  # ImageNet's deviations over 0.5
    assert shift.tolist() == pytest.approx([-0.03, -0.088, -0.188])  # (its means - 0.5) / 0.5
    assert set(state) == {name for name in published if not name.startswith(("fc.", "aux"))}
    assert all(torch.equal(state[name], published[name]) for name in state)


def test_without_weights_images_go_in_as_they_are():
    images = torch.randn(1, 3, 8, 8)
    assert torch.equal(googlenet().transform_input(images), images)


def test_the_input_transform_is_saved_with_the_weights(saved, tmp_path):
    trained = googlenet(weights=saved)
    trained.transform_input.scale.fill_(2.0)
    torch.save(trained.state_dict(), tmp_path / "own.pth")
    assert googlenet(weights=str(tmp_path / "own.pth")).transform_input.scale.tolist() == [2.0] * 3


@torch.no_grad()
def test_two_copies_of_rgb_give_what_one_gives(saved):
    images = torch.randn(1, 3, 32, 32)
    one = googlenet(weights=saved).eval()(images)
    two = googlenet(6, weights=saved).eval()(torch.cat([images, images], dim=1))
    for name in FEATURES:
        torch.testing.assert_close(two[name], one[name], atol=1e-5, rtol=1e-5)


def test_a_single_channel_is_transformed_by_the_mean_of_the_three(saved):
    transform = googlenet(1, weights=saved).transform_input
    assert transform.scale.tolist() == pytest.approx([0.452])  # (0.229 + 0.224 + 0.225) / 3 / 0.5
    assert transform.shift.tolist() == pytest.approx([-0.102])  # ((0.485 + 0.456 + 0.406) / 3 - 0.5) / 0.5


@pytest.mark.parametrize("in_channels", [1, 4])
def test_any_number_of_channels_goes_in(saved, in_channels):
    for weights in (None, saved):
        features = googlenet(in_channels, weights=weights)(torch.randn(1, in_channels, 33, 33))
        assert features["inception5b"].shape == (1, 1024, 2, 2)


@pytest.mark.parametrize("output_stride", [8, 16])
def test_dilated_maps_equal_the_strided_ones_at_the_strided_pixels(saved, output_stride, assert_dilated_equals_strided):
    assert_dilated_equals_strided(googlenet(weights=saved), googlenet(output_stride=output_stride))


def test_convolutions_and_poolings_inside_modules_are_dilated():
    net = googlenet(output_stride=8)
    assert (net.maxpool3.dilation, net.maxpool4.dilation) == (1, 2)
    for module, dilation in ((net.inception3b, 1), (net.inception4a, 2), (net.inception5b, 4)):
        assert module.branch2[1].conv.dilation == module.branch3[1].conv.dilation == (dilation, dilation)
        assert module.branch4[0].dilation == dilation


def test_dilate_strided_spreads_the_poolings_that_lose_their_stride():
    net = googlenet(output_stride=8, dilate_strided=True)
    assert (net.maxpool3.dilation, net.maxpool4.dilation) == (2, 4)


def test_parameters_are_torchvisions_without_the_classifier():
    # torchvision's meta data give 6,624,904 in all; 1024 x 1000 + 1000 of them in the classifier.
    assert sum(p.numel() for p in googlenet().parameters()) == 6_624_904 - 1_025_000


def test_activation_checkpointing_changes_no_gradient(assert_recomputing_changes_no_gradient):
    assert_recomputing_changes_no_gradient(googlenet(), torch.randn(2, 3, 33, 47))


def test_another_networks_weights_are_refused(net, tmp_path):
    torch.save({name: x for name, x in net.state_dict().items() if "inception5b" not in name}, tmp_path / "cut.pth")
    with pytest.raises(CheckpointError, match=r"missing \(inception5b"):
        googlenet(weights=str(tmp_path / "cut.pth"))


def test_an_impossible_output_stride_names_the_possible_ones():
    with pytest.raises(ConfigError, match="output_stride=4: must be 8, 16 or 32"):
        googlenet(output_stride=4)
