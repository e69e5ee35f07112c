"""timm's networks as backbones: equal to timm, at any size, with options and weights that are checked."""

import re
import subprocess
import sys

import pytest
import torch

from segtrain.backbones.timm_pyramid import BatchNormAct2d, TimmPyramid
from segtrain.errors import CheckpointError, ConfigError
from segtrain.models.adapt import ModelOptions, adapt
from segtrain.models.upernet import UPerNet
from segtrain.types import Feature

timm = pytest.importorskip("timm")

SWIN = "swin_tiny_patch4_window7_224"
OPTIONS = {
    "in_channels": 3,
    "name": "resnet18",
    "weights": None,
    "output_stride": None,
    "img_size": None,
    "drop_path_rate": None,
}


def pyramid(name="resnet18", **options):
    return TimmPyramid(**OPTIONS | {"name": name} | options)


@pytest.fixture
def saved(tmp_path):
    """Saves a network's state dict as timm writes it, classifier included."""

    def save(name):
        torch.manual_seed(0)
        torch.save(timm.create_model(name).state_dict(), tmp_path / f"{name}.pth")
        return str(tmp_path / f"{name}.pth")

    return save


@pytest.mark.parametrize(
    ("name", "training", "output_stride", "options"),
    [
        ("resnet18", False, None, {}),
        ("resnet18", False, 8, {"output_stride": 8}),
        ("convnext_atto", True, 16, {"output_stride": 16}),
        ("efficientnet_b0", True, 16, {"output_stride": 16}),
        (SWIN, False, 32, {"dynamic_img_size": True}),
    ],
)
def test_features_equal_timms(name, training, output_stride, options):
    net = timm.create_model(name, features_only=True, **options).train(training)
    backbone = pyramid(name, output_stride=output_stride).train(training)
    backbone.net.load_state_dict(net.state_dict())
    images = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        expected, features = net(images), backbone(images)
    for feature, ours, timms in zip(backbone.features, features.values(), expected, strict=True):
        torch.testing.assert_close(ours, timms.permute(0, 3, 1, 2) if name == SWIN else timms)
        assert ours.shape == (2, feature.channels, 64 // feature.stride, 96 // feature.stride)


def test_features_bear_the_names_of_timms_modules():
    assert [feature.name for feature in pyramid().features] == ["act1", "layer1", "layer2", "layer3", "layer4"]
    assert pyramid("convnext_atto").features[0] == Feature("stages_0", 40, 4)


@pytest.mark.parametrize("name", ["resnet18", "convnext_atto", "efficientnet_b0", SWIN, "vit_tiny_patch16_224"])
def test_any_size_goes_in_and_a_batch_of_one_may_shrink_to_one_pixel_in_training(name):
    backbone = pyramid(name)
    for height, width in [(32, 32), (33, 47)]:
        features = backbone(torch.randn(1, 3, height, width))
        sizes = {
            feature.name: (-(-height // feature.stride), -(-width // feature.stride)) for feature in backbone.features
        }
        assert {feature: tuple(x.shape[-2:]) for feature, x in features.items()} == sizes
        assert all(x.isfinite().all() for x in features.values())


def test_images_are_padded_on_the_right_and_below_to_whole_patches():
    backbone, images = pyramid("convnext_atto").eval(), torch.randn(1, 3, 33, 47)
    padded = torch.zeros(1, 3, 64, 64)
    padded[..., :33, :47] = images
    with torch.no_grad():
        features, expected = backbone(images), backbone(padded)
    assert torch.equal(features["stages_0"], expected["stages_0"][..., :9, :12])


def test_windows_cut_from_the_whole_map_take_multiples_of_the_image_size():
    backbone = pyramid("maxvit_rmlp_pico_rw_256", img_size=64).eval()
    assert (backbone.unit, backbone.is_fixed) == ((64, 64), False)
    with torch.no_grad():
        assert backbone(torch.randn(1, 3, 65, 33))["stages_3"].shape[-2:] == (3, 2)


def test_a_network_of_one_image_size_names_it_when_an_image_is_larger():
    backbone = pyramid("efficientformerv2_s0", img_size=64).eval()
    assert (backbone.unit, backbone.is_fixed) == ((64, 64), True)
    with torch.no_grad():
        assert backbone(torch.randn(1, 3, 47, 64))["stages_2"].shape[-2:] == (3, 4)
    with pytest.raises(ConfigError, match=r"at most 64 x 64 pixels, not 65 x 64; set model.backbone.img_size"):
        backbone(torch.randn(1, 3, 65, 64))


def test_normalisation_and_activation_in_one_layer_keep_names_and_values():
    layer = timm.layers.BatchNormAct2d(4, act_layer=torch.nn.SiLU)
    ours = BatchNormAct2d(layer)
    assert list(ours.state_dict()) == list(layer.state_dict())
    x = torch.randn(2, 4, 3, 3)
    assert torch.equal(ours(x), torch.nn.functional.silu(torch.nn.functional.batch_norm(x, None, None, training=True)))
    assert ours(x[:1, :, :1, :1]).isfinite().all()


@pytest.mark.parametrize(("name", "stem"), [("resnet18", "conv1.weight"), ("convnext_atto", "stem.0.weight")])
@pytest.mark.parametrize("in_channels", [1, 4])
def test_timms_weights_load_from_a_file_for_any_number_of_channels(saved, name, stem, in_channels):
    path = saved(name)
    ours, file = pyramid(name, weights=path, in_channels=in_channels).net.state_dict(), torch.load(path)
    weight = file[stem].sum(1, keepdim=True) if in_channels == 1 else file[stem][:, [0, 1, 2, 0]] * 3 / 4
    torch.testing.assert_close(ours.get(stem, ours.get("stem_0.weight")), weight)
    assert torch.equal(list(ours.values())[-1], file[list(ours)[-1].replace("stages_3", "stages.3")])


@pytest.mark.parametrize(
    ("name", "other"), [("resnet18", "resnet34"), ("resnet34", "resnet18"), ("efficientnet_b0", "resnet18")]
)
def test_weights_of_another_network_do_not_load(saved, name, other):
    with pytest.raises(CheckpointError, match=rf"weights: .*{other}.pth does not fit timm's {name}: "):
        pyramid(name, weights=saved(other))


def test_a_missing_file_is_told_in_one_line():
    with pytest.raises(CheckpointError, match="weights: no file 'imagnet'; did you mean 'imagenet'"):
        pyramid(weights="imagnet")


def test_where_the_hub_does_not_answer_the_files_address_is_told_after_one_try(monkeypatch, tmp_path, caplog):
    tries = []

    def unreachable(url, **_):
        tries.append(url)
        raise OSError("no route\nto host")

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))  # empty
    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", unreachable)
    url = "https://huggingface.co/timm/resnet18.a1_in1k/resolve/main/model.safetensors"
    expected = (
        f"weights=imagenet: timm cannot load {url} (OSError: no route to host); fetch it elsewhere and give its path"
    )
    with pytest.raises(CheckpointError, match=re.escape(expected)):
        pyramid(weights="imagenet")
    assert (tries, caplog.messages) == ([url], [])


def test_a_network_without_published_weights_says_so():
    with pytest.raises(CheckpointError, match="no file 'imagenet'; nobody publishes those of this network"):
        pyramid("lcnet_035", weights="imagenet")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "convnext_tinny"}, "name=convnext_tinny: timm has no such network; did you mean 'convnext_tiny'"),
        ({"name": "local-dir:/tmp"}, "name=local-dir:/tmp: timm has no such network"),
        ({"name": SWIN, "output_stride": 8}, f"output_stride=8: timm's {SWIN} does not take it .*'output_stride'"),
        ({"name": "vit_tiny_patch16_224", "output_stride": 32}, "output_stride=32: .* ends at stride 16; set null"),
        ({"img_size": 256}, "img_size=256: timm's resnet18 does not take it .*'img_size'"),
        ({"drop_path_rate": 1.0}, r"drop_path_rate=1.0: must lie in \[0, 1\)"),
        ({"drop_path_rate": -1.0}, r"drop_path_rate=-1.0: must lie in \[0, 1\)"),
        ({"name": "inception_v3"}, r"name=inception_v3: timm's pyramid is not of its own strides \(299 x 299 pixels"),
    ],
)
def test_impossible_options_name_their_key(options, message):
    with pytest.raises(ConfigError, match=f"^model.backbone.{message}"):
        pyramid(**options)


def test_drop_path_rate_reaches_timm():
    rates = [
        layer.drop_prob
        for layer in pyramid("convnext_atto", drop_path_rate=0.5).modules()
        if hasattr(layer, "drop_prob")
    ]
    assert max(rates) == 0.5


@pytest.mark.parametrize(
    ("name", "side", "block"),
    [
        ("convnext_atto", 32, "stages_1"),
        ("vit_tiny_patch16_224", 32, "model.blocks.1"),
        ("hiera_tiny_224", 224, "model.blocks.1"),
    ],
)
def test_recomputing_runs_a_block_twice_and_changes_no_gradient(
    name, side, block, assert_recomputing_changes_no_gradient
):
    backbone, calls = pyramid(name), []
    backbone.net.get_submodule(block).register_forward_pre_hook(lambda *_: calls.append(1))
    assert_recomputing_changes_no_gradient(backbone, torch.randn(1, 3, side, side))
    assert len(calls) == 1 + 2


def test_a_network_that_timm_does_not_checkpoint_says_so_only_when_asked_to():
    backbone = pyramid("hrnet_w18_small")
    backbone.recompute = False
    message = "model.activation_checkpointing=true: timm's hrnet_w18_small has none; set it to false"
    with pytest.raises(ConfigError, match=message):
        backbone.recompute = True


def test_a_model_over_a_network_that_gives_its_maps_itself_is_adapted():
    model = UPerNet(pyramid("hiera_tiny_224"), num_classes=3, channels=8, bins=[1, 2], dropout=0.0)
    adapt(model, ModelOptions(), heads={})
    assert model(torch.randn(1, 3, 224, 224)).logits.shape == (1, 3, 224, 224)


def test_an_absent_timm_is_told_how_to_come_by(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ConfigError, match="model/backbone=timm takes the package timm; pip install timm"):
        pyramid()


def test_timm_is_imported_only_when_asked_for():
    check = "import sys; from segtrain.backbones import timm_pyramid; sys.exit('timm' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check]).returncode == 0
