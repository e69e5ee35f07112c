"""Xception-65: equal to timm's, strided and dilated."""

import pytest
import torch
import torch.nn.functional as F

from segtrain.backbones.xception import Xception65, from_timm
from segtrain.errors import CheckpointError, ConfigError

OPTIONS = {"in_channels": 3, "weights": None, "output_stride": 32, "dilate_strided": False, "multi_grid": None}


def xception(**options):
    return Xception65(**OPTIONS | options)


def on_meta(**options):
    with torch.device("meta"):
        return xception(**options)


def dilations(module):
    return [conv.dilation[0] for conv in module.modules() if isinstance(conv, torch.nn.Conv2d) and conv.groups > 1]


@pytest.fixture(scope="module")
def timms():
    """timm's network and its state dict, statistics included drawn at random: a fresh BatchNorm hides its place."""
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    state = {
        name: torch.rand_like(x) + 0.5 if "bn" in name and x.ndim else x
        for name, x in timm.create_model("xception65").state_dict().items()
    }
    return timm, state


@pytest.mark.parametrize("output_stride", [32, 16, 8])
def test_features_equal_timms(timms, output_stride):
    timm, state = timms
    net = timm.create_model("xception65", features_only=True, output_stride=output_stride).eval()
    net.load_state_dict({name.replace(".", "_", 1): x for name, x in state.items() if not name.startswith("head.")})
    backbone = xception(output_stride=output_stride).eval()
    backbone.load_state_dict({from_timm(name): x for name, x in state.items() if not name.startswith("head.")})
    images = torch.randn(1, 3, 65, 50)
    with torch.no_grad():
        features, expected = backbone(images), net(images)
    assert list(features) == [feature.name for feature in backbone.features]
    for name, x in zip(features, expected, strict=True):
        scale = x.abs().max()  # timm reads the four inner maps after their ReLU; the last one has its own
        torch.testing.assert_close(F.relu(features[name]) / scale, x / scale, rtol=0, atol=1e-5, msg=name)


@pytest.mark.parametrize("in_channels", [1, 4])
def test_timms_weights_load_from_a_file_for_any_number_of_channels(timms, tmp_path, in_channels):
    torch.save(timms[1], tmp_path / "xception65.pth")
    backbone = xception(weights=str(tmp_path / "xception65.pth"), in_channels=in_channels)
    assert torch.equal(backbone.exit2.conv3.norm.weight, timms[1]["blocks.20.stack.conv3.bn_pw.weight"])
    assert backbone.stem[0].conv.weight.shape == (32, in_channels, 3, 3)


def test_names_are_translated_by_their_place_in_the_network():
    assert from_timm("blocks.3.stack.conv1.bn_dw.bias") == "middle.0.conv1.depthwise_norm.bias"
    assert from_timm("blocks.19.shortcut.bn.running_mean") == "exit1.shortcut.norm.running_mean"
    assert from_timm("stem.1.conv.weight") == "stem.1.conv.weight"
    assert from_timm("blocks.21.stack.conv1.bn_dw.bias") == "blocks.21.stack.conv1.bn_dw.bias"  # it has 21 blocks


def test_weights_of_a_network_with_more_blocks_are_refused_in_one_line(timms, tmp_path):
    with torch.device("meta"):
        state = timms[0].create_model("xception71").state_dict()
    torch.save({name: torch.zeros(x.shape, device="cpu") for name, x in state.items()}, tmp_path / "xception71.pth")
    with pytest.raises(CheckpointError, match=r"does not fit: .* not in this network"):
        on_meta(weights=str(tmp_path / "xception71.pth"))


def test_published_weights_are_told_where_to_be_fetched():
    with pytest.raises(CheckpointError, match=r"weights=imagenet: no hash is published.*fetch https://.* its path"):
        on_meta(weights="imagenet")


def test_the_map_deeplab_v3plus_decodes_from_is_read_before_its_relu():
    torch.manual_seed(0)
    low_level = xception().eval()(torch.randn(1, 3, 32, 32))["entry2"]
    assert low_level.shape == (1, 256, 8, 8)
    assert low_level.min() < 0


@pytest.mark.parametrize(
    ("options", "entry3", "middle", "exit1", "exit2"),
    [
        ({"output_stride": 16}, [1, 1, 1], 1, [1, 1, 1], [2, 2, 2]),
        ({"output_stride": 16, "dilate_strided": True}, [1, 1, 1], 1, [1, 1, 2], [2, 2, 2]),
        ({"output_stride": 8}, [1, 1, 1], 2, [2, 2, 2], [4, 4, 4]),
        ({"output_stride": 16, "multi_grid": [1, 2, 4]}, [1, 1, 1], 1, [1, 1, 1], [2, 4, 8]),
    ],
)
def test_dilations_of_the_separable_convolutions(options, entry3, middle, exit1, exit2):
    net = on_meta(**options)
    assert [dilations(net.entry3), dilations(net.exit1), dilations(net.exit2)] == [entry3, exit1, exit2]
    assert set(dilations(net.middle)) == {middle}


def test_recomputing_activations_changes_no_gradient(assert_recomputing_changes_no_gradient):
    assert_recomputing_changes_no_gradient(xception(), torch.randn(2, 3, 32, 32))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"output_stride": 4}, "output_stride=4: must be 8, 16 or 32"),
        ({"multi_grid": [1, 2]}, r"multi_grid=\[1, 2\]: the last stage has 3 blocks"),
    ],
)
def test_impossible_options_name_their_key(options, message):
    with pytest.raises(ConfigError, match=f"model.backbone.{message}"):
        on_meta(**options)
