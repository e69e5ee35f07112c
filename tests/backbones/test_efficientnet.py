"""EfficientNet: equal to torchvision's, and dilated as timm's."""

from typing import get_args

import pytest
import torch
import torchvision

from segtrain.backbones.efficientnet import EfficientNet, EfficientNetName
from segtrain.errors import ConfigError
from segtrain.types import Feature

OPTIONS = {
    "in_channels": 3,
    "name": "efficientnet_b0",
    "weights": None,
    "output_stride": 32,
    "dilate_strided": False,
    "stochastic_depth": 0.0,
}


def efficientnet(**options):
    return EfficientNet(**OPTIONS | options)


def on_meta(name, **options):
    with torch.device("meta"):
        return efficientnet(name=name, **options)


@pytest.mark.parametrize(
    ("name", "places"), [("efficientnet_b0", [0, 1, 2, 3, 5, 7]), ("efficientnet_v2_s", [0, 1, 2, 3, 5, 6])]
)
def test_features_equal_torchvisions(name, places, as_trained):
    torch.manual_seed(0)
    net = as_trained(torchvision.models.get_model(name, weights=None))
    backbone = efficientnet(name=name).eval()
    own = backbone.state_dict()
    backbone.load_state_dict({f"net.{key}": x for key, x in net.state_dict().items() if f"net.{key}" in own})
    images = torch.randn(1, 3, 65, 50)
    features = backbone(images)
    assert list(features) == [feature.name for feature in backbone.features]
    for place, feature in zip(places, features.values(), strict=True):
        assert torch.equal(feature, net.features[: place + 1](images)), place


@pytest.mark.parametrize("output_stride", [32, 16, 8])
def test_it_is_dilated_as_timm_does(output_stride, as_trained):
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    net = as_trained(timm.create_model("efficientnet_b0", features_only=True, output_stride=output_stride))
    backbone = efficientnet(output_stride=output_stride).eval()
    theirs, ours = net.state_dict().values(), backbone.state_dict()
    # Both register a block's layers in the order in which they run, so that tensors correspond by their place.
    backbone.load_state_dict(dict(zip(ours, theirs, strict=True)))
    images = torch.randn(1, 3, 65, 98)
    features = backbone(images)
    del features["stem"]  # timm's pyramid begins after the first stage
    for ours, theirs in zip(features.values(), net(images), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_stages_bear_the_papers_numbers():
    v1 = [Feature("stem", 32, 2), Feature("stage2", 16, 2), Feature("stage3", 24, 4), Feature("stage4", 40, 8)]
    assert on_meta("efficientnet_b0").features == (*v1, Feature("stage6", 112, 16), Feature("stage8", 320, 32))
    v2 = [Feature("stem", 24, 2), Feature("stage1", 24, 2), Feature("stage2", 48, 4), Feature("stage3", 80, 8)]
    assert on_meta("efficientnet_v2_m").features == (*v2, Feature("stage5", 176, 16), Feature("stage7", 512, 32))


@pytest.mark.parametrize("name", get_args(EfficientNetName))
def test_only_the_head_of_torchvisions_network_is_left_out(name):
    with torch.device("meta"):
        net = torchvision.models.get_model(name, weights=None)
    head = sum(p.numel() for part in (net.features[-1], net.classifier) for p in part.parameters())
    assert sum(p.numel() for p in on_meta(name).parameters()) == sum(p.numel() for p in net.parameters()) - head


def test_stochastic_depth_grows_linearly_to_the_last_block():
    rates = [layer.p for layer in on_meta("efficientnet_b0", stochastic_depth=0.16).modules() if hasattr(layer, "p")]
    assert rates == pytest.approx([0.01 * block for block in range(16)])  # of B0's 16 blocks the last has 15 / 16 of it


@pytest.mark.parametrize("in_channels", [1, 4])
def test_torchvisions_weights_load_from_a_file_for_any_number_of_channels(tmp_path, in_channels):
    net = torchvision.models.efficientnet_b0(weights=None)
    torch.save(net.state_dict(), tmp_path / "net.pth")
    backbone = efficientnet(weights=str(tmp_path / "net.pth"), in_channels=in_channels)
    assert torch.equal(backbone.net.features[7][0].block[0][0].weight, net.features[7][0].block[0][0].weight)
    assert backbone(torch.randn(2, in_channels, 33, 33))["stage8"].shape == (2, 320, 2, 2)


def test_a_batch_of_one_may_shrink_to_one_pixel_in_training():
    assert efficientnet()(torch.randn(1, 3, 32, 32))["stage8"].shape == (1, 320, 1, 1)


def test_recomputing_activations_draws_the_same_blocks_to_skip(assert_recomputing_changes_no_gradient):
    assert_recomputing_changes_no_gradient(efficientnet(stochastic_depth=0.5), torch.randn(2, 3, 64, 64))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"output_stride": 2}, "output_stride=2: must be 8, 16 or 32"),
        ({"stochastic_depth": 1.0}, r"stochastic_depth=1.0: must lie in \[0, 1\)"),
    ],
)
def test_impossible_options_name_their_key(options, message):
    with pytest.raises(ConfigError, match=f"model.backbone.{message}"):
        efficientnet(**options)
