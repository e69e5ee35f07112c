"""ResNet: equal to torchvision's, strided and dilated."""

import pytest
import torch
import torchvision
from torchvision.models.feature_extraction import create_feature_extractor

from segtrain.backbones.resnet import ResNet
from segtrain.errors import ConfigError

TAPS = {"relu": "stem", "layer1": "layer1", "layer2": "layer2", "layer3": "layer3", "layer4": "layer4"}


def resnet(name="resnet18", **options):
    return ResNet(**{"in_channels": 3, "name": name, "weights": None, "output_stride": 32} | options)


@pytest.mark.parametrize(
    ("name", "output_stride", "replaced"),
    [("resnet18", 32, None), ("resnet50", 32, None), ("resnet50", 16, (0, 0, 1)), ("resnet50", 8, (0, 1, 1))],
)
def test_features_equal_torchvisions(name, output_stride, replaced):
    torch.manual_seed(0)
    net = torchvision.models.get_model(name, weights=None, replace_stride_with_dilation=replaced).eval()
    backbone = resnet(name, output_stride=output_stride).eval()
    backbone.load_state_dict({k: v for k, v in net.state_dict().items() if not k.startswith("fc.")})
    images = torch.randn(2, 3, 65, 50)
    expected, features = create_feature_extractor(net, TAPS)(images), backbone(images)
    assert list(features) == [feature.name for feature in backbone.features] == list(expected)
    for feature in features:
        assert torch.equal(features[feature], expected[feature]), feature


@pytest.mark.parametrize("output_stride", [8, 16])
def test_basic_blocks_are_dilated_as_timm_does(output_stride):
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    net = timm.create_model("resnet18", features_only=True, output_stride=output_stride).eval()
    backbone = resnet(output_stride=output_stride).eval()
    backbone.load_state_dict(net.state_dict())
    images = torch.randn(1, 3, 65, 50)
    for ours, timms in zip(backbone(images).values(), net(images), strict=True):
        torch.testing.assert_close(ours, timms)


def test_the_layer_that_loses_its_stride_keeps_the_dilation_before_it():
    backbone = resnet(output_stride=8)
    dilations = [
        [conv.dilation[0] for block in stage for conv in (block.conv1, block.conv2)]
        for stage in (backbone.layer2, backbone.layer3, backbone.layer4)
    ]
    assert dilations == [[1, 1, 1, 1], [1, 2, 2, 2], [2, 4, 4, 4]]


def test_the_deepest_of_several_features_at_one_stride_is_given():
    assert resnet(output_stride=8).feature(stride=8).name == "layer4"


@pytest.mark.parametrize("in_channels", [1, 4, 12])
def test_any_number_of_channels_goes_in(in_channels):
    assert resnet(in_channels=in_channels)(torch.randn(2, in_channels, 33, 33))["layer4"].shape == (2, 512, 2, 2)


def test_an_impossible_output_stride_names_the_possible_ones():
    with pytest.raises(ConfigError, match="output_stride=4: must be 8, 16 or 32"):
        resnet(output_stride=4)
