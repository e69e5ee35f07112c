"""ResNet: equal to torchvision's, strided, dilated and deformable."""

import pytest
import torch
import torchvision
from torch import nn
from torchvision.models.feature_extraction import create_feature_extractor

from segtrain.backbones.resnet import ResNet
from segtrain.errors import CheckpointError, ConfigError
from segtrain.nn.deformable import DeformableConv2d

NAMES = [
    *("resnet18", "resnet34", "resnet50", "resnet101", "resnet152"),
    *("resnext50_32x4d", "resnext101_32x8d", "resnext101_64x4d", "wide_resnet50_2", "wide_resnet101_2"),
]
TAPS = {"relu": "stem", "layer1": "layer1", "layer2": "layer2", "layer3": "layer3", "layer4": "layer4"}


def resnet(name="resnet18", **options):
    plain = {
        "in_channels": 3,
        "weights": None,
        "output_stride": 32,
        "dilate_strided": False,
        "multi_grid": None,
        "deformable_stages": [],
        "deformable_version": 2,
    }
    return ResNet(**plain | {"name": name} | options)


def dilations(stage):
    """Of each block's 3x3 convolutions."""
    return [[c.dilation[0] for c in block.modules() if getattr(c, "kernel_size", 0) == (3, 3)] for block in stage]


@pytest.mark.parametrize("name", NAMES)
def test_published_files_fit_strictly(name):
    with torch.device("meta"):
        backbone, published = resnet(name), torchvision.models.get_model(name, weights=None)
    own = {key: x.shape for key, x in backbone.state_dict().items()}
    theirs = {key: x.shape for key, x in published.state_dict().items() if not key.startswith("fc.")}
    assert own == theirs
    assert "IMAGENET1K_V1" in torchvision.models.get_model_weights(name).__members__


@pytest.mark.parametrize(
    ("name", "output_stride", "replaced"),
    [
        ("resnet18", 32, None),
        ("resnet50", 32, None),
        ("resnet50", 16, (0, 0, 1)),
        ("resnet50", 8, (0, 1, 1)),
        ("resnext50_32x4d", 32, None),
    ],
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
@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_features_equal_timms_at_every_output_stride(name, output_stride):
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    net = timm.create_model(name, features_only=True, output_stride=output_stride).eval()
    backbone = resnet(name, output_stride=output_stride).eval()
    backbone.load_state_dict(net.state_dict())
    images = torch.randn(1, 3, 65, 50)
    with torch.no_grad():
        for ours, timms in zip(backbone(images).values(), net(images), strict=True):
            torch.testing.assert_close(ours, timms, atol=1e-5, rtol=1e-5)


def test_dilating_strided_convolutions_gives_the_features_of_segmentation_models_pytorch():
    smp = pytest.importorskip("segmentation_models_pytorch")
    torch.manual_seed(0)
    net = smp.encoders.get_encoder("resnet18", weights=None, output_stride=8).eval()
    backbone = resnet(output_stride=8, dilate_strided=True).eval()
    backbone.load_state_dict(net.state_dict())
    images = torch.randn(1, 3, 64, 48)
    with torch.no_grad():
        for ours, smps in zip(backbone(images).values(), net(images)[1:], strict=True):
            torch.testing.assert_close(ours, smps, atol=1e-5, rtol=1e-5)


def test_the_layer_that_loses_its_stride_keeps_the_dilation_before_it():
    backbone = resnet(output_stride=8)
    assert [dilations(stage) for stage in backbone.stages] == [
        [[1, 1], [1, 1]],
        [[1, 1], [1, 1]],
        [[1, 2], [2, 2]],
        [[2, 4], [4, 4]],
    ]


@pytest.mark.parametrize(("dilate_strided", "expected"), [(False, [1 * 1, 2 * 2, 2 * 4]), (True, [2, 4, 8])])
def test_multi_grid_multiplies_the_dilations_of_the_last_stage(dilate_strided, expected):
    with torch.device("meta"):
        backbone = resnet("resnet50", output_stride=16, multi_grid=[1, 2, 4], dilate_strided=dilate_strided)
    assert dilations(backbone.layer4) == [[d] for d in expected]
    assert dilations(backbone.layer3) == [[1]] * 6


def test_a_grid_of_another_length_than_the_last_stage_is_refused():
    with pytest.raises(ConfigError, match=r"multi_grid=\[1, 2, 4\]: the last stage has 2 blocks"):
        resnet(multi_grid=[1, 2, 4])


@pytest.mark.parametrize("version", [1, 2])
def test_deformable_stages_start_equal_to_plain_ones_with_the_same_weights(version, tmp_path):
    torch.manual_seed(0)
    plain = resnet(output_stride=16).eval()
    torch.save(plain.state_dict(), tmp_path / "plain.pth")
    options = {"deformable_stages": [3, 4, 5], "deformable_version": version}
    backbone = resnet(output_stride=16, weights=str(tmp_path / "plain.pth"), **options).eval()
    images = torch.randn(1, 3, 33, 47)
    with torch.no_grad():
        for ours, expected in zip(backbone(images).values(), plain(images).values(), strict=True):
            torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-5)


def test_the_named_stages_and_no_others_are_deformable_and_keep_their_dilation():
    with torch.device("meta"):
        backbone = resnet("resnet50", output_stride=16, deformable_stages=[3, 5])
    kinds = [[isinstance(block.conv2, DeformableConv2d) for block in stage] for stage in backbone.stages]
    assert kinds == [[False] * 3, [True] * 4, [False] * 6, [True] * 3]
    assert [block.conv2.offset.dilation[0] for block in backbone.layer4] == [1, 2, 2]
    assert backbone.layer2[0].conv2.offset.stride == (2, 2)


@pytest.mark.parametrize("stages", [[1], [5, 6], [4, 4]])
def test_stages_that_cannot_be_deformed_are_refused(stages):
    with pytest.raises(ConfigError, match=r"model.backbone.deformable_stages=.*out of 2, 3, 4 and 5"):
        resnet(deformable_stages=stages)


@pytest.mark.parametrize("options", [{}, {"deformable_stages": [5], "output_stride": 16}], ids=["plain", "deformable"])
def test_recomputing_activations_changes_neither_gradients_nor_running_statistics(options):
    torch.manual_seed(0)
    plain, again = resnet(**options), resnet(**options)
    again.load_state_dict(plain.state_dict())
    again.recompute = True
    images = torch.randn(2, 3, 33, 33)
    for backbone in (plain, again):
        backbone(images)["layer4"].square().sum().backward()
    for (name, p), q in zip(plain.named_parameters(), again.parameters(), strict=True):
        torch.testing.assert_close(q.grad, p.grad, msg=name)
    for (name, x), y in zip(plain.named_buffers(), again.buffers(), strict=True):
        torch.testing.assert_close(y, x, msg=name)
    assert again.layer4[1].bn2.num_batches_tracked == 1


def test_the_deepest_of_several_features_at_one_stride_is_given():
    assert resnet(output_stride=8).feature(stride=8).name == "layer4"


@pytest.mark.parametrize("in_channels", [1, 4, 12])
def test_any_number_of_channels_goes_in(in_channels):
    assert resnet(in_channels=in_channels)(torch.randn(2, in_channels, 33, 33))["layer4"].shape == (2, 512, 2, 2)


def test_a_batch_of_one_trains_on_maps_of_one_pixel():
    assert resnet().train()(torch.randn(1, 3, 32, 32))["layer4"].shape == (1, 512, 1, 1)


def test_an_impossible_output_stride_names_the_possible_ones():
    with pytest.raises(ConfigError, match="output_stride=4: must be 8, 16 or 32"):
        resnet(output_stride=4)


def test_weights_of_another_depth_are_refused(tmp_path):
    torch.save(resnet("resnet34").state_dict(), tmp_path / "resnet34.pth")
    with pytest.raises(CheckpointError, match=r"not in this network \(layer1.2.conv1.weight"):
        resnet(weights=str(tmp_path / "resnet34.pth"))


def test_weights_of_a_classifier_for_rgb_load_for_grey_images(tmp_path):
    torch.manual_seed(0)
    published = torchvision.models.resnet18().state_dict()
    torch.save(published, tmp_path / "resnet18.pth")
    backbone = resnet(in_channels=1, weights=str(tmp_path / "resnet18.pth"))
    torch.testing.assert_close(backbone.conv1.weight, nn.Parameter(published["conv1.weight"].sum(1, keepdim=True)))
