"""MobileNetV2 and V3: equal to torchvision's, strided and dilated."""

import pytest
import torch
import torchvision

from segtrain.backbones.mobilenet import MobileNetV2, MobileNetV3
from segtrain.errors import CheckpointError, ConfigError
from segtrain.types import Feature

OPTIONS = {"in_channels": 3, "weights": None, "output_stride": 32, "dilate_strided": False}


def mobilenet(name="mobilenet_v3_small", **options):
    if name == "mobilenet_v2":
        return MobileNetV2(**OPTIONS | options)
    return MobileNetV3(**OPTIONS | {"name": name, "reduced_tail": False} | options)


def torchvisions(name, **options):
    torch.manual_seed(0)
    return torchvision.models.get_model(name, weights=None, **options).eval()


def used(net, backbone):
    """What of torchvision's state dict the backbone holds, under the backbone's names."""
    own = backbone.state_dict()
    return {f"net.{name}": x for name, x in net.state_dict().items() if f"net.{name}" in own}


@pytest.mark.parametrize(
    ("name", "places"),
    [
        ("mobilenet_v2", [1, 3, 6, 13, 17]),
        ("mobilenet_v3_small", [0, 1, 2, 3, 8, 12]),
        ("mobilenet_v3_large", [1, 3, 4, 6, 12, 16]),
    ],
)
def test_features_equal_torchvisions(name, places):
    net, backbone = torchvisions(name), mobilenet(name).eval()
    backbone.load_state_dict(used(net, backbone))
    images = torch.randn(2, 3, 65, 50)
    features = backbone(images)
    assert list(features) == [feature.name for feature in backbone.features]
    for place, feature in zip(places, features.values(), strict=True):
        assert torch.equal(feature, net.features[: place + 1](images)), place


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "mobilenet_v3_large"])
def test_dilating_the_strided_convolution_too_gives_torchvisions_dilated_network(name):
    net, backbone = torchvisions(name, dilated=True), mobilenet(name, output_stride=16, dilate_strided=True).eval()
    backbone.load_state_dict(used(net, backbone))
    images = torch.randn(1, 3, 97, 130)
    assert torch.equal(backbone(images)["conv"], net.features(images))


def test_features_are_those_torchvisions_segmentation_models_read():
    deeplab = torchvision.models.get_model("deeplabv3_mobilenet_v3_large", weights_backbone=None, aux_loss=True).eval()
    backbone = mobilenet("mobilenet_v3_large", output_stride=16, dilate_strided=True).eval()
    backbone.load_state_dict({f"net.features.{name}": x for name, x in deeplab.backbone.state_dict().items()})
    images = torch.randn(1, 3, 65, 97)
    expected, features = deeplab.backbone(images), backbone(images)
    assert torch.equal(features["conv"], expected["out"])
    assert torch.equal(features["c2"], expected["aux"])


def test_features_without_the_last_convolution_end_at_320_channels():
    assert mobilenet("mobilenet_v2").deepest == Feature("bottleneck17", 320, 32)


def test_a_reduced_tail_has_half_the_channels_and_no_published_weights():
    assert mobilenet(reduced_tail=True).deepest == Feature("conv", 288, 32)
    with pytest.raises(CheckpointError, match="weights: no file 'imagenet'; nobody publishes those of this network"):
        mobilenet(reduced_tail=True, weights="imagenet")


@pytest.mark.parametrize(("name", "in_channels"), [("mobilenet_v2", 1), ("mobilenet_v3_small", 4)])
def test_torchvisions_weights_load_from_a_file_for_any_number_of_channels(tmp_path, name, in_channels):
    net = torchvisions(name)
    torch.save(net.state_dict(), tmp_path / "net.pth")
    backbone = mobilenet(name, weights=str(tmp_path / "net.pth"), in_channels=in_channels)
    for loaded, saved in zip(backbone.net.features[3].parameters(), net.features[3].parameters(), strict=True):
        assert torch.equal(loaded, saved)
    assert backbone(torch.randn(2, in_channels, 33, 33))[backbone.deepest.name].shape[-2:] == (2, 2)


@pytest.mark.parametrize("name", ["mobilenet_v2", "mobilenet_v3_small"])
def test_a_batch_of_one_may_shrink_to_one_pixel_in_training(name):
    backbone = mobilenet(name)
    assert backbone(torch.randn(1, 3, 32, 32))[backbone.deepest.name].shape[-2:] == (1, 1)


@pytest.mark.parametrize("name", ["mobilenet_v2", "mobilenet_v3_small"])
def test_recomputing_activations_changes_no_gradient(name, assert_recomputing_changes_no_gradient):
    assert_recomputing_changes_no_gradient(mobilenet(name), torch.randn(2, 3, 64, 64))


def test_an_impossible_output_stride_names_the_possible_ones():
    with pytest.raises(ConfigError, match="model.backbone.output_stride=64: must be 8, 16 or 32"):
        mobilenet(output_stride=64)
