"""DeepLab v3: torchvision's with the same weights, and the paper's switches."""

import re

import pytest
import torch
from torch import nn
from torchvision.models import get_model

from segtrain.backbones.mobilenet import MobileNetV3
from segtrain.backbones.resnet import ResNet
from segtrain.models.deeplabv3 import DeepLabV3
from segtrain.nn.aspp import ImagePooling

TORCHVISION_NAMES = [
    (r"^classifier\.0\.convs\.(\d)\.0\.", r"aspp.branches.\1.conv."),
    (r"^classifier\.0\.convs\.([0-3])\.1\.", r"aspp.branches.\1.norm."),
    (r"^classifier\.0\.convs\.4\.1\.", r"aspp.branches.4.conv."),  # after the pooling, which has place 0
    (r"^classifier\.0\.convs\.4\.2\.", r"aspp.branches.4.norm."),
    (r"^classifier\.0\.project\.0\.", r"aspp.project.conv."),
    (r"^classifier\.0\.project\.1\.", r"aspp.project.norm."),
    (r"^classifier\.1\.", r"head_conv.conv."),
    (r"^classifier\.2\.", r"head_conv.norm."),
    (r"^classifier\.4\.", r"classifier."),
]


def resnet(name="resnet18", output_stride=16):
    return ResNet(3, name, None, output_stride, False, None, [], 1)


def deeplab(backbone, **options):
    defaults = {"atrous_rates": [6, 12, 18], "channels": 16, "image_pooling": True, "dropout": 0.1, "head_conv": False}
    return DeepLabV3(backbone, **{"num_classes": 5} | defaults | options)


def torchvisions(name):
    """With statistics as after training, so that the norms are no identities."""
    torch.manual_seed(0)
    net = get_model(name, weights=None, weights_backbone=None, num_classes=5, aux_loss=False)
    for layer in net.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.normal_(layer.running_mean, std=0.1)
            nn.init.uniform_(layer.running_var, 0.5, 1.5)
    return net.eval()


def renamed(state, *names):
    def new(name):
        for pattern, replacement in names:
            name, found = re.subn(pattern, replacement, name)
            if found:
                return name
        return name

    return {new(name): value for name, value in state.items()}


@pytest.mark.parametrize(
    ("name", "make_backbone", "names"),
    [
        ("deeplabv3_resnet50", lambda: resnet("resnet50", 8), []),
        (
            "deeplabv3_mobilenet_v3_large",
            lambda: MobileNetV3(3, "mobilenet_v3_large", False, None, 16, dilate_strided=True),
            [(r"^backbone\.", "backbone.net.features.")],
        ),
    ],
    ids=["resnet50", "mobilenet_v3_large"],
)
def test_equal_weights_give_torchvisions_logits(name, make_backbone, names):
    theirs = torchvisions(name)
    ours = deeplab(make_backbone(), atrous_rates=[12, 24, 36], channels=256, head_conv=True).eval()
    ours.load_state_dict(renamed(theirs.state_dict(), *TORCHVISION_NAMES, *names))
    images = torch.randn(1, 3, 65, 97)
    with torch.no_grad():
        torch.testing.assert_close(ours(images).logits, theirs(images)["out"], atol=1e-5, rtol=0)


def test_a_batch_of_one_trains():
    model = deeplab(resnet())
    model(torch.randn(1, 3, 33, 47)).logits.square().mean().backward()
    assert model.aspp.branches[-1].conv.weight.grad.any()


def test_image_pooling_and_head_convolution_can_be_switched_off():
    model = deeplab(resnet(), image_pooling=False, head_conv=False)
    assert not any(isinstance(layer, ImagePooling) for layer in model.modules())
    assert model.aspp.project.conv.in_channels == 4 * 16
    assert not list(model.head_conv.parameters())
