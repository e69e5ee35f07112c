"""DeepLab v3+: segmentation_models.pytorch's with the same weights, and the paper's switches."""

import re

import pytest
import torch
from torch import nn

from segtrain.backbones.base import Backbone
from segtrain.backbones.efficientnet import EfficientNet
from segtrain.backbones.resnet import ResNet
from segtrain.errors import ConfigError
from segtrain.models.deeplabv3plus import DeepLabV3Plus
from segtrain.types import Feature

SMP_NAMES = [
    (r"^decoder\.aspp\.0\.convs\.0\.0\.", r"aspp.branches.0.conv."),
    (r"^decoder\.aspp\.0\.convs\.0\.1\.", r"aspp.branches.0.norm."),
    (r"^decoder\.aspp\.0\.convs\.([123])\.0\.0\.", r"aspp.branches.\1.depthwise."),
    (r"^decoder\.aspp\.0\.convs\.([123])\.0\.1\.", r"aspp.branches.\1.pointwise."),
    (r"^decoder\.aspp\.0\.convs\.([123])\.1\.", r"aspp.branches.\1.norm."),
    (r"^decoder\.aspp\.0\.convs\.4\.1\.", r"aspp.branches.4.conv."),  # after the pooling, which has place 0
    (r"^decoder\.aspp\.0\.convs\.4\.2\.", r"aspp.branches.4.norm."),
    (r"^decoder\.aspp\.0\.project\.0\.", r"aspp.project.conv."),
    (r"^decoder\.aspp\.0\.project\.1\.", r"aspp.project.norm."),
    (r"^decoder\.aspp\.1\.0\.", r"head_conv.depthwise."),
    (r"^decoder\.aspp\.1\.1\.", r"head_conv.pointwise."),
    (r"^decoder\.aspp\.2\.", r"head_conv.norm."),
    (r"^decoder\.block1\.0\.", r"reduce.conv."),
    (r"^decoder\.block1\.1\.", r"reduce.norm."),
    (r"^decoder\.block2\.0\.0\.", r"decoder.0.depthwise."),
    (r"^decoder\.block2\.0\.1\.", r"decoder.0.pointwise."),
    (r"^decoder\.block2\.1\.", r"decoder.0.norm."),
    (r"^segmentation_head\.0\.", r"classifier."),
]
SMP_OPTIONS = {
    "atrous_rates": [12, 24, 36],
    "channels": 256,
    "num_decoder_convs": 1,
    "separable_norm_between": False,
    "head_conv": True,
    "align_corners": True,
}


def resnet(name="resnet18", output_stride=16, dilate_strided=False):
    return ResNet(3, name, None, output_stride, dilate_strided, None, [], 1)


def efficientnet(dilate_strided):
    return EfficientNet(3, "efficientnet_b0", None, 16, dilate_strided, stochastic_depth=0.0)


def deeplab(backbone, **options):
    papers = {
        "num_classes": 5,
        "atrous_rates": [6, 12, 18],
        "channels": 16,
        "image_pooling": True,
        "dropout": 0.1,
        "low_level_channels": 48,
        "num_decoder_convs": 2,
        "separable_aspp": True,
        "separable_decoder": True,
        "separable_norm_between": True,
        "head_conv": False,
        "align_corners": False,
    }
    return DeepLabV3Plus(backbone, **papers | options)


def renamed(name):
    for pattern, replacement in SMP_NAMES:
        name, found = re.subn(pattern, replacement, name)
        if found:
            break
    return name


@pytest.mark.parametrize(
    ("encoder", "make_backbone"),
    [
        ("resnet34", lambda: resnet("resnet34", dilate_strided=True)),
        ("timm-efficientnet-b0", lambda: efficientnet(dilate_strided=True)),
        ("tu-efficientnet_b0", lambda: efficientnet(dilate_strided=False)),  # dilated by timm, as we do it
    ],
    ids=["resnet34", "timm-efficientnet-b0", "tu-efficientnet_b0"],
)
@pytest.mark.filterwarnings("ignore:`timm-` encoders are deprecated")
def test_equal_weights_give_the_logits_of_segmentation_models_pytorch(encoder, make_backbone):
    smp = pytest.importorskip("segmentation_models_pytorch")
    torch.manual_seed(0)
    theirs = smp.DeepLabV3Plus(encoder, encoder_weights=None, classes=5).eval()
    for layer in theirs.modules():
        if isinstance(layer, nn.BatchNorm2d):  # statistics as after training, so that the norms are no identities
            nn.init.normal_(layer.running_mean, std=0.1)
            nn.init.uniform_(layer.running_var, 0.5, 1.5)
    ours = deeplab(make_backbone(), **SMP_OPTIONS).eval()
    # Both networks register the encoder's layers in the order in which they run; theirs has a classifier's after them.
    encoders = zip(ours.backbone.state_dict(), theirs.encoder.state_dict().values(), strict=False)
    heads = {renamed(name): x for name, x in theirs.state_dict().items() if not name.startswith("encoder.")}
    ours.load_state_dict({f"backbone.{name}": x for name, x in encoders} | heads)
    images = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        torch.testing.assert_close(ours(images).logits, theirs(images), atol=1e-5, rtol=0)


def test_a_batch_of_one_of_odd_size_trains():
    model = deeplab(resnet())
    logits = model(torch.randn(1, 3, 33, 47)).logits
    logits.square().mean().backward()
    assert logits.shape == (1, 5, 33, 47)
    assert model.reduce.conv.weight.grad.any()


@pytest.mark.parametrize(("switch", "part"), [("separable_aspp", "aspp"), ("separable_decoder", "decoder")])
def test_each_separable_switch_changes_its_own_part(switch, part):
    model = deeplab(resnet(), **{switch: False})
    separable = {name.split(".")[0] for name, _ in model.named_parameters() if "depthwise" in name}
    assert separable == {"aspp", "decoder"} - {part}


def test_the_decoder_has_as_many_convolutions_as_asked_for_after_304_channels():
    model = deeplab(resnet(), channels=256, separable_decoder=False, num_decoder_convs=3)
    assert [layer.conv.in_channels for layer in model.decoder] == [304, 256, 256]


class Coarse(Backbone):
    def __init__(self):
        super().__init__(3, [Feature("only", 4, 16)])


@pytest.mark.parametrize(
    ("backbone", "options", "message"),
    [
        (Coarse, {}, "no feature with stride 4"),
        (resnet, {"num_decoder_convs": 0}, "model.num_decoder_convs=0"),
        (resnet, {"low_level_channels": 0}, "model.low_level_channels=0"),
    ],
)
def test_what_cannot_be_built_is_refused(backbone, options, message):
    with pytest.raises(ConfigError, match=message):
        deeplab(backbone(), **options)
