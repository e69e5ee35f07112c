"""Squeeze-and-Excitation networks: equal to timm's, which are the authors'."""

import pytest
import torch
from torch import nn

from segtrain.backbones.senet import DESIGNS, SENet, SqueezeExcitation
from segtrain.errors import ConfigError
from segtrain.nn.deformable import DeformableConv2d


def senet(name="seresnet18", **options):
    plain = {
        "in_channels": 3,
        "weights": None,
        "squeeze": True,
        "reduction": 16,
        "output_stride": 32,
        "dilate_strided": False,
        "multi_grid": None,
        "deformable_stages": [],
        "deformable_version": 2,
    }
    return SENet(**plain | {"name": name} | options)


def lively(net):
    """Statistics as after training, so that the norms are no identities."""
    for layer in net.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.normal_(layer.running_mean, std=0.1)
            nn.init.uniform_(layer.running_var, 0.5, 1.5)
            nn.init.uniform_(layer.weight, 0.2, 0.6)
    return net.eval()


@pytest.mark.parametrize("name", DESIGNS)
def test_published_files_fit_strictly(name):
    timm = pytest.importorskip("timm")
    with torch.device("meta"):
        backbone, published = senet(name), timm.create_model(f"legacy_{name}")
    theirs = {key: x.shape for key, x in published.state_dict().items() if not key.startswith("last_linear.")}
    assert {key: x.shape for key, x in backbone.state_dict().items()} == theirs
    assert published.default_cfg["url"].endswith(DESIGNS[name].file)


@pytest.mark.parametrize("name", ["seresnet18", "seresnet50", "seresnext50_32x4d"])
def test_features_equal_timms(name):
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    net = lively(timm.create_model(f"legacy_{name}", num_classes=0))
    backbone = senet(name).eval()
    backbone.load_state_dict(net.state_dict())
    images = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        features, expected = backbone(images), net.forward_intermediates(images, intermediates_only=True)
    for ours, timms in zip(features.values(), expected, strict=True):
        torch.testing.assert_close(ours, timms, atol=1e-5, rtol=1e-5)


def test_the_first_block_of_senet154_equals_timms():
    timm = pytest.importorskip("timm")
    with torch.device("meta"):  # only one block is brought to life
        net, backbone = timm.create_model("legacy_senet154"), senet("senet154")
    torch.manual_seed(0)
    theirs, ours = net.layer2[0].to_empty(device="cpu"), backbone.layer2[0].to_empty(device="cpu")
    for x in (*theirs.parameters(), *theirs.buffers()):
        x.data = torch.rand(x.shape) / 100 if x.is_floating_point() else torch.zeros_like(x)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(1, 256, 8, 6)
    with torch.no_grad():
        torch.testing.assert_close(ours.eval()(x), theirs.eval()(x), atol=1e-5, rtol=1e-5)


def test_squeeze_and_excitation_by_hand():
    layer = SqueezeExcitation(channels=2, reduction=2)
    with torch.no_grad():
        layer.fc1.weight.copy_(torch.tensor([1.0, -1.0]).view(1, 2, 1, 1))
        layer.fc2.weight.copy_(torch.tensor([0.0, 1.0]).view(2, 1, 1, 1))
        layer.fc1.bias.zero_()
        layer.fc2.bias.copy_(torch.tensor([0.0, -2.0]))
    x = torch.tensor(
        [[[[1.0, 5.0]], [[0.0, 2.0]]]]
    )  # means 3 and 1, inside relu(3 - 1) = 2, weights sigmoid of 0 and 0
    assert layer(x).flatten().tolist() == [0.5, 2.5, 0.0, 1.0]


def test_without_squeeze_the_names_are_those_of_the_plain_residual_network():
    plain, weighed = (senet(squeeze=squeeze).state_dict().keys() for squeeze in (False, True))
    assert plain == {key for key in weighed if ".se_module." not in key}


@pytest.mark.parametrize("name", ["seresnet18", "seresnet50"])
def test_without_squeeze_dilation_computes_at_every_pixel_what_stride_computes_at_some(name):
    torch.manual_seed(0)
    strided = lively(senet(name, squeeze=False))
    dilated = senet(name, squeeze=False, output_stride=8).eval()
    dilated.load_state_dict(strided.state_dict())
    images = torch.randn(1, 3, 65, 65)
    with torch.no_grad():
        fine, coarse = dilated(images), strided(images)
    torch.testing.assert_close(fine["layer3"][..., ::2, ::2], coarse["layer3"], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(fine["layer4"][..., ::4, ::4], coarse["layer4"], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("name", "dilate_strided", "expected"),
    [
        ("seresnet50", False, [2, 2, 2]),  # the stride was in the 1x1 before: what the 3x3 reads is denser already
        ("seresnext50_32x4d", False, [1, 2, 2]),
        ("seresnext50_32x4d", True, [2, 2, 2]),
        ("senet154", False, [1, 2, 2]),
    ],
)
def test_dilations_of_the_last_stage_follow_the_place_of_the_stride(name, dilate_strided, expected):
    with torch.device("meta"):
        backbone = senet(name, output_stride=16, dilate_strided=dilate_strided)
    assert [block.conv2.dilation[0] for block in backbone.layer4] == expected


def test_multi_grid_multiplies_the_dilations_of_the_last_stage():
    with torch.device("meta"):
        backbone = senet("seresnet50", output_stride=16, multi_grid=[1, 2, 4])
    assert [block.conv2.dilation[0] for block in backbone.layer4] == [2, 4, 8]


def test_deformable_stages_start_equal_to_plain_ones():
    torch.manual_seed(0)
    plain, backbone = lively(senet()), senet(deformable_stages=[4, 5]).eval()
    backbone.load_state_dict(plain.state_dict(), strict=False)
    assert isinstance(backbone.layer3[0].conv1, DeformableConv2d)
    images = torch.randn(1, 3, 33, 47)
    with torch.no_grad():
        torch.testing.assert_close(backbone(images)["layer4"], plain(images)["layer4"], atol=1e-5, rtol=1e-5)


def test_odd_sizes_are_rounded_up():
    sizes = [tuple(x.shape[-2:]) for x in senet()(torch.zeros(1, 3, 33, 47)).values()]
    assert sizes == [(17, 24), (9, 12), (5, 6), (3, 3), (2, 2)]


@pytest.mark.parametrize("reduction", [0, 65])
def test_a_reduction_that_leaves_no_channel_is_refused(reduction):
    with pytest.raises(ConfigError, match=f"model.backbone.reduction={reduction}: must lie between 1 and 64"):
        senet(reduction=reduction)
