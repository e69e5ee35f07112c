"""DeepLab v1: the paper's numbers, and multi-scale prediction against a plain reference."""

import pytest
import torch
import torch.nn.functional as F

from segtrain.backbones.resnet import ResNet
from segtrain.backbones.vgg import VGG
from segtrain.models.deeplabv1 import DeepLabV1


def resnet18():
    return ResNet(3, "resnet18", None, 8, False, None, [], 1)


def large_fov(multi_scale_features):
    with torch.device("meta"):
        return DeepLabV1(VGG(3, "vgg16", None, 8, False, None, "pool", 3, 1024, 3, 12, 0.5), 21, multi_scale_features)


def test_large_fov_has_20_5_million_parameters():
    # arXiv:1412.7062, Table 2: 20.5 M. VGG-16's convolutions 14,714,688; fc6 3 * 3 * 512 * 1024 + 1024; fc7
    # 1024 * 1024 + 1024; fc8 1024 * 21 + 21.
    assert sum(p.numel() for p in large_fov(False).parameters()) == 14_714_688 + 4_719_616 + 1_049_600 + 21_525


def test_multi_scale_prediction_reads_the_image_and_the_first_four_poolings():
    model = large_fov(multi_scale_features=True)
    assert list(model.finer) == ["image", "pool1", "pool2", "pool3", "pool4"]
    assert model.classifier.in_channels == 1024 + 5 * 128  # section 4.3: 640 channels more


def test_multi_scale_features_equal_a_plain_reference():
    torch.manual_seed(0)
    model, images = DeepLabV1(resnet18(), 4, multi_scale_features=True).eval(), torch.randn(1, 3, 33, 47)
    with torch.no_grad():
        features = model.backbone(images)
        maps = [features["layer4"]]
        for x, stride, branch in zip(
            [images, features["stem"], features["layer1"], features["layer2"], features["layer3"]],
            [8, 4, 2, 1, 1],
            model.finer.values(),
            strict=True,
        ):
            first, second = branch[0].conv, branch[1].conv
            x = F.relu(F.conv2d(x, first.weight, first.bias, stride=stride, padding=1))
            maps.append(F.relu(F.conv2d(x, second.weight, second.bias)))
        logits = F.conv2d(torch.cat(maps, dim=1), model.classifier.weight, model.classifier.bias)
        expected = F.interpolate(logits, (33, 47), mode="bilinear", align_corners=False)
        torch.testing.assert_close(model(images).logits, expected)


@pytest.mark.parametrize("multi_scale_features", [False, True])
def test_the_classifier_starts_small(multi_scale_features):
    torch.manual_seed(0)
    classifier = DeepLabV1(resnet18(), 100, multi_scale_features).classifier
    assert classifier.weight.std().item() == pytest.approx(0.01, rel=0.02)
    assert not classifier.bias.any()
