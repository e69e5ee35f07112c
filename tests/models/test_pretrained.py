"""Weights of whole models, from files made on the spot: published ones, other frameworks', our own checkpoints."""

import hashlib
import logging

import pytest
import torch
import torchvision
from torch import nn

from segtrain.backbones.mobilenet import MobileNetV3
from segtrain.backbones.resnet import ResNet
from segtrain.engine import checkpoint
from segtrain.errors import CheckpointError
from segtrain.models import pretrained
from segtrain.models.adapt import ModelOptions, adapt
from segtrain.models.auxiliary import AuxiliaryOptions
from segtrain.models.binary import give_two_logits
from segtrain.models.deeplabv3 import DeepLabV3
from segtrain.models.deeplabv3plus import DeepLabV3Plus
from segtrain.models.fcn import DilatedFCN
from segtrain.models.pretrained import load_model_weights
from segtrain.models.unet import UNet

PLAIN = {"multi_grid": None, "deformable_stages": [], "deformable_version": 1, "weights": None}
FCN_HEAD = {"stage4": AuxiliaryOptions(feature="penultimate", weight=0.4, head="fcn", dropout=0.1)}


def resnet(name="resnet18", output_stride=32, dilate_strided=False, in_channels=3):
    return ResNet(in_channels, name=name, output_stride=output_stride, dilate_strided=dilate_strided, **PLAIN)


def unet(num_classes=2, in_channels=3, **options):
    options = {"decoder_channels": [32, 16, 8, 8, 4], "upsampling": "nearest", "batch_norm": True} | options
    more = {"head_kernel_size": 3, "attention": False, "residual": False}
    return UNet(resnet(in_channels=in_channels), num_classes, **options | more)


def torchvisions(family, backbone, num_classes=4):
    """torchvision's model with its auxiliary head, norms as after training, so that none is an identity."""
    torch.manual_seed(0)
    net = torchvision.models.get_model(
        f"{family}_{backbone}", weights=None, weights_backbone=None, num_classes=num_classes, aux_loss=True
    )
    return trained(net).eval()


def trained(net):
    for layer in net.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.normal_(layer.running_mean, std=0.1)
            nn.init.uniform_(layer.running_var, 0.5, 1.5)
    return net


def ours(family, backbone):
    options = {"atrous_rates": [12, 24, 36], "channels": 256, "image_pooling": True, "dropout": 0.5, "head_conv": True}
    if backbone.startswith("resnet"):
        over = resnet(backbone, output_stride=8)
    else:
        over = MobileNetV3(3, backbone, reduced_tail=False, weights=None, output_stride=16, dilate_strided=True)
    return DilatedFCN(over, 4, 0.1) if family == "fcn" else DeepLabV3(over, 4, **options)


def save(state, path):
    torch.save(state, path)
    return str(path)


@pytest.mark.parametrize(
    ("family", "backbone"), [("fcn", "resnet50"), ("deeplabv3", "resnet50"), ("deeplabv3", "mobilenet_v3_large")]
)
def test_torchvisions_file_gives_torchvisions_logits(family, backbone, tmp_path):
    theirs, model = torchvisions(family, backbone), ours(family, backbone)
    load_model_weights(model, save(theirs.state_dict(), tmp_path / "theirs.pth"), None, None, strict=True)
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(images).logits, theirs(images)["out"], atol=1e-5, rtol=0)


def test_another_frameworks_model_of_one_class_is_that_of_a_binary_task(tmp_path):
    smp = pytest.importorskip("segmentation_models_pytorch")
    torch.manual_seed(0)
    theirs = trained(smp.Unet("resnet18", encoder_weights=None, decoder_channels=(32, 16, 8, 8, 4), classes=1)).eval()
    model = unet(num_classes=1)
    give_two_logits(model)
    load_model_weights(model, save(theirs.state_dict(), tmp_path / "theirs.pth"), None, None, strict=True)
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        probabilities = model.eval()(images).logits.softmax(dim=1)
        torch.testing.assert_close(probabilities[:, 1:], theirs(images).sigmoid(), atol=1e-5, rtol=0)


def test_torchvisions_auxiliary_head_is_loaded_where_the_model_has_it(tmp_path):
    theirs, model = torchvisions("fcn", "resnet50"), ours("fcn", "resnet50")
    path = save(theirs.state_dict(), tmp_path / "theirs.pth")
    adapt(model, ModelOptions(weights=path), FCN_HEAD)
    x = torch.randn(1, 1024, 5, 6)
    torch.testing.assert_close(model.auxiliary["stage4"].eval()(x), theirs.aux_classifier(x))


def test_published_weights_are_found_by_model_and_backbone_and_verified(tmp_path, monkeypatch):
    path = tmp_path / "theirs.pth"
    save(torchvisions("fcn", "resnet50").state_dict(), path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    url = path.rename(tmp_path / f"fcn_resnet50_coco-{digest[:8]}.pth").as_uri()
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    asked = []

    class Entry:
        def __init__(self, name):
            asked.append(name)
            self.url = url

    monkeypatch.setattr(pretrained, "get_model_weights", lambda name: {"COCO_WITH_VOC_LABELS_V1": Entry(name)})
    load_model_weights(ours("fcn", "resnet50"), "coco_with_voc_labels", None, None, strict=True)
    assert asked == ["fcn_resnet50"]


def test_what_is_not_published_is_said_in_one_line():
    with pytest.raises(CheckpointError, match=r"model.weights: no file 'coco_with_voc_labels'.*the path of a") as error:
        load_model_weights(unet(), "coco_with_voc_labels", None, None, strict=True)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("naming", ["unet", "deeplabv3plus"])
def test_segmentation_models_pytorchs_file_gives_its_logits(naming, tmp_path):
    smp = pytest.importorskip("segmentation_models_pytorch")
    torch.manual_seed(0)
    if naming == "unet":
        theirs = smp.Unet("resnet18", encoder_weights=None, classes=2, decoder_channels=[32, 16, 8, 8, 4])
        model = unet()
    else:
        theirs = smp.DeepLabV3Plus("resnet18", encoder_weights=None, classes=2)
        model = DeepLabV3Plus(
            resnet(output_stride=16, dilate_strided=True), 2, atrous_rates=[12, 24, 36], channels=256,
            image_pooling=True, dropout=0.5, low_level_channels=48, num_decoder_convs=1, separable_aspp=True,
            separable_decoder=True, separable_norm_between=False, head_conv=True, align_corners=True,
        )  # fmt: skip
    path = save({"state_dict": trained(theirs).state_dict()}, tmp_path / "theirs.pth")
    load_model_weights(model, path, "state_dict", None, strict=True)
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(images).logits, theirs.eval()(images), atol=1e-5, rtol=0)


def test_a_checkpoint_of_segtrain_is_read_and_its_auxiliary_heads_are_no_mismatch(tmp_path):
    trained_one, model = unet(), unet()
    adapt(trained_one, ModelOptions(), FCN_HEAD)
    checkpoint.save({"model": trained_one.state_dict()}, tmp_path / "best.pt")
    load_model_weights(model, str(tmp_path / "best.pt"), None, None, strict=True)
    assert torch.equal(model.head.weight, trained_one.head.weight)


def test_a_damaged_checkpoint_is_not_loaded(tmp_path):
    path = tmp_path / "best.pt"
    checkpoint.save({"model": unet().state_dict()}, path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="damaged"):
        load_model_weights(unet(), str(path), None, None, strict=True)


def test_other_classes_need_a_load_that_is_not_strict_which_reports_what_was_left(tmp_path, caplog):
    before = unet(num_classes=5)
    path = save(before.state_dict(), tmp_path / "five.pth")
    with pytest.raises(CheckpointError, match=r"2 of another shape \(head.weight .*weights_strict=false"):
        load_model_weights(unet(), path, None, None, strict=True)
    model = unet()
    with caplog.at_level(logging.WARNING, "segtrain"):
        load_model_weights(model, path, None, None, strict=False)
    assert torch.equal(model.backbone.conv1.weight, before.backbone.conv1.weight)
    assert "2 of another shape (head.weight [5, 4, 3, 3] instead of [2, 4, 3, 3], head.bias" in caplog.text


def test_a_prefix_is_taken_off_and_hinted_at(tmp_path):
    path = save({f"module.{name}": x for name, x in unet().state_dict().items()}, tmp_path / "wrapped.pth")
    with pytest.raises(CheckpointError, match=r"set model.weights_prefix=module\."):
        load_model_weights(unet(), path, None, None, strict=False)
    load_model_weights(unet(), path, None, "module.", strict=True)
    with pytest.raises(CheckpointError, match=r"model.weights_prefix=net\.: no name in"):
        load_model_weights(unet(), path, None, "net.", strict=True)
    path = save({f"a.module.{name}": x for name, x in unet().state_dict().items()}, tmp_path / "twice.pth")
    with pytest.raises(CheckpointError, match=r"set model.weights_prefix=a\.module\."):
        load_model_weights(unet(), path, None, "a.", strict=True)


def test_an_auxiliary_head_of_another_shape_starts_anew(tmp_path, caplog):
    theirs, model = torchvisions("fcn", "resnet50"), ours("fcn", "resnet50")
    path = save(theirs.state_dict(), tmp_path / "theirs.pth")
    head = {"stage4": AuxiliaryOptions(feature="layer2", weight=0.4, head="fcn", dropout=0.1)}
    with caplog.at_level(logging.INFO, "segtrain"):
        adapt(model, ModelOptions(weights=path), head)
    assert "other auxiliary heads" in caplog.text


def test_a_head_that_only_the_file_has_is_switched_on_by_name(tmp_path):
    path = save(ours("deeplabv3", "resnet50").state_dict(), tmp_path / "with_head.pth")
    options = {"atrous_rates": [12, 24, 36], "channels": 256, "image_pooling": True, "dropout": 0.5}
    plain = DeepLabV3(resnet("resnet50", output_stride=8), 4, head_conv=False, **options)
    with pytest.raises(CheckpointError, match=r"set model\.head_conv=true"):
        load_model_weights(plain, path, None, None, strict=True)


def test_weights_of_another_model_are_refused_even_where_a_part_may_be_missing(tmp_path):
    path = save({"fc1.weight": torch.zeros(2, 2), "fc2.weight": torch.zeros(2, 2)}, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match="holds nothing of this model: 0 of"):
        load_model_weights(unet(), path, None, None, strict=False)


def test_a_key_that_the_file_does_not_have_is_named_with_those_it_has(tmp_path):
    path = save({"weights": unet().state_dict(), "epoch": 3}, tmp_path / "nested.pth")
    load_model_weights(unet(), path, "weights", None, strict=True)
    with pytest.raises(CheckpointError, match="has nothing under ema, it holds a dict of weights, epoch"):
        load_model_weights(unet(), path, "ema", None, strict=True)


def test_the_first_convolution_is_adapted_to_the_images_channels(tmp_path):
    rgb, grey = unet(), unet(in_channels=1)
    load_model_weights(grey, save(rgb.state_dict(), tmp_path / "rgb.pth"), None, None, strict=True)
    torch.testing.assert_close(grey.backbone.conv1.weight, rgb.backbone.conv1.weight.sum(1, keepdim=True))


def test_batch_norms_weights_go_into_group_norms_and_their_statistics_do_not(tmp_path):
    before, model = unet(), unet()
    nn.init.uniform_(before.backbone.bn1.weight)
    adapt(model, ModelOptions(norm="group", weights=save(before.state_dict(), tmp_path / "batch.pth")), {})
    assert torch.equal(model.backbone.bn1.weight, before.backbone.bn1.weight)
