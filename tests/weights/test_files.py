"""Pretrained weights: files found, verified, adapted, and loaded strictly. Nothing here touches the network."""

import hashlib
from types import SimpleNamespace
from urllib.error import URLError

import pytest
import torch
import torchvision

from segtrain.backbones import resnet as resnet_module
from segtrain.backbones.resnet import ResNet
from segtrain.errors import CheckpointError
from segtrain.weights import adapt_stem, load_weights


def resnet18(weights, in_channels=3):
    options = {"output_stride": 32, "dilate_strided": False, "multi_grid": None, "deformable_stages": []}
    return ResNet(in_channels=in_channels, name="resnet18", weights=weights, deformable_version=1, **options)


@pytest.fixture(scope="module")
def state():
    torch.manual_seed(0)
    return torchvision.models.resnet18(weights=None).state_dict()


@pytest.fixture
def saved(state, tmp_path):
    """torchvision's state dict, `fc.*` included, under a name that ends in its hash."""
    torch.save(state, tmp_path / "made.pth")
    digest = hashlib.sha256((tmp_path / "made.pth").read_bytes()).hexdigest()
    return (tmp_path / "made.pth").rename(tmp_path / f"resnet18-{digest[:8]}.pth")


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """An empty torch.hub folder; gives the folder of checkpoints in it."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    return tmp_path / "hub" / "checkpoints"


def publish_at(url, monkeypatch):
    entry = SimpleNamespace(url=url)
    monkeypatch.setattr(resnet_module, "get_model_weights", lambda name: {"IMAGENET1K_V1": entry})


def test_a_torchvision_file_loads_strictly(saved, state):
    loaded = resnet18(str(saved)).state_dict()
    assert set(loaded) == {name for name in state if not name.startswith("fc.")}
    assert all(torch.equal(loaded[name], state[name]) for name in loaded)


def test_a_file_without_batch_counts_loads_as_torch_lets_it(state, tmp_path):
    torch.save({name: x for name, x in state.items() if "num_batches" not in name}, tmp_path / "old.pth")
    assert torch.equal(resnet18(str(tmp_path / "old.pth")).conv1.weight, state["conv1.weight"])


def test_imagenet_weights_are_fetched_once(saved, state, hub, monkeypatch):
    publish_at(saved.as_uri(), monkeypatch)
    assert torch.equal(resnet18("imagenet").conv1.weight, state["conv1.weight"])
    saved.unlink()
    assert torch.equal(resnet18("imagenet").conv1.weight, state["conv1.weight"])


def test_offline_is_one_line_with_the_url_and_the_place_for_the_file(hub, monkeypatch):
    def offline(*args, **kwargs):
        raise URLError("Name or service not known")

    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    with pytest.raises(CheckpointError) as raised:
        resnet18("imagenet")
    message = str(raised.value)
    assert "https://download.pytorch.org/models/resnet18-f37072fd.pth" in message
    assert str(hub / "resnet18-f37072fd.pth") in message
    assert "\n" not in message


def test_a_download_with_another_hash_is_refused(saved, hub, monkeypatch):
    publish_at(saved.rename(saved.with_name("resnet18-00000000.pth")).as_uri(), monkeypatch)
    with pytest.raises(CheckpointError, match="arrived damaged"):
        resnet18("imagenet")
    assert not list(hub.iterdir())


def test_a_kept_file_that_was_damaged_later_is_refused(saved, hub, monkeypatch):
    publish_at(saved.as_uri(), monkeypatch)
    resnet18("imagenet")
    kept = hub / saved.name
    content = bytearray(kept.read_bytes())
    content[len(content) // 2] ^= 1
    kept.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"damaged.*delete it"):
        resnet18("imagenet")


def test_a_missing_file_is_named_and_a_misspelt_word_mended(tmp_path):
    with pytest.raises(CheckpointError, match=r"no file '.*gone\.pth'"):
        resnet18(str(tmp_path / "gone.pth"))
    with pytest.raises(CheckpointError, match="did you mean 'imagenet'"):
        resnet18("imagnet")


def test_weights_of_another_network_say_what_did_not_match(tmp_path):
    torch.save(torchvision.models.resnet50(weights=None).state_dict(), tmp_path / "fifty.pth")
    with pytest.raises(CheckpointError) as raised:
        resnet18(str(tmp_path / "fifty.pth"))
    message = str(raised.value)
    assert "fifty.pth does not fit" in message
    assert "not in this network (layer1.0.conv3.weight, " in message
    assert "layer1.0.conv1.weight [64, 64, 1, 1] instead of [64, 64, 3, 3]" in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"not a checkpoint", "not a file of tensors"),
        (b"", "not a file of tensors"),
        ({"epoch": 3, "model": {}}, "holds a dict of epoch, model"),
        ([1], "holds list"),
    ],
)
def test_a_file_that_is_no_state_dict_is_one_line_without_torchs_advice(content, expected, tmp_path):
    path = tmp_path / "wrong.pth"
    path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
    with pytest.raises(CheckpointError, match=expected) as raised:
        resnet18(str(path))
    assert "weights_only=False" not in str(raised.value)


def test_code_in_a_weight_file_is_not_run(tmp_path):
    class Touch:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    torch.save({"conv1.weight": Touch()}, tmp_path / "evil.pth")
    with pytest.raises(CheckpointError):
        resnet18(str(tmp_path / "evil.pth"))
    assert not (tmp_path / "ran").exists()


def test_a_stem_for_one_channel_gives_to_grey_what_rgb_gave_to_three_copies():
    weight, grey = torch.randn(4, 3, 7, 7), torch.randn(1, 1, 9, 9)
    expected = torch.conv2d(grey.expand(-1, 3, -1, -1), weight)
    torch.testing.assert_close(torch.conv2d(grey, adapt_stem(weight, 1)), expected)


def test_a_stem_for_more_channels_repeats_rgb_in_turn_and_keeps_the_scale():
    weight = torch.tensor([1.0, 2.0, 3.0]).view(1, 3, 1, 1)
    assert adapt_stem(weight, 4).flatten().tolist() == [0.75, 1.5, 2.25, 0.75]
    assert adapt_stem(weight, 3) is weight


def test_a_pretrained_stem_is_adapted_when_it_is_loaded(saved, state):
    assert torch.equal(resnet18(str(saved), in_channels=4).conv1.weight, adapt_stem(state["conv1.weight"], 4))


def test_only_the_named_prefixes_are_left_out(saved):
    with pytest.raises(CheckpointError, match=r"2 not in this network \(fc.weight, fc.bias\)"):
        load_weights(resnet18(None), str(saved), None, stem="conv1.weight", drop=())
