"""UPerNet: equal to segmentation_models.pytorch's, over pyramids of any strides."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from segtrain.backbones.base import Backbone
from segtrain.errors import ConfigError
from segtrain.models.upernet import UPerNet
from segtrain.types import Feature


class Patches(Backbone):
    """The mean of patches at each of the strides."""

    def __init__(self, strides):
        super().__init__(3, [Feature(f"patch{i}", 4, stride) for i, stride in enumerate(strides)])

    def forward(self, images):
        return {f.name: F.avg_pool2d(images, f.stride, ceil_mode=True)[:, [0, 1, 2, 0]] for f in self.features}


def upernet(backbone, **options):
    return UPerNet(backbone, **{"num_classes": 3, "channels": 8, "bins": [1, 2, 3, 6], "dropout": 0.0} | options)


def renamed(name):
    """segmentation_models.pytorch's name of a parameter -> ours: its pyramid runs deep to shallow."""
    name = name.replace("encoder.", "backbone.").replace("segmentation_head.0.", "classifier.")
    for i in range(3):
        name = name.replace(f"decoder.fpn_lateral_blocks.{i}.conv_norm_relu.", f"laterals.{2 - i}.")
        name = name.replace(f"decoder.fpn_conv_blocks.{i}.", f"smooth.{2 - i}.")
    for i in range(4):
        name = name.replace(f"decoder.psp.blocks.{i}.1.", f"pyramid.levels.{i}.")
    name = name.replace("decoder.psp.out_conv.", "top.").replace("decoder.fusion_block.", "fuse.")
    if name.startswith(("pyramid.", "top.", "laterals.", "smooth.", "fuse.")):
        block, index, kind = name.rsplit(".", 2)
        return f"{block}.{'conv' if index == '0' else 'norm'}.{kind}"
    return name


def test_equal_weights_give_the_logits_of_segmentation_models_pytorch(backbone_named):
    """Before the last upsampling, which theirs does by align_corners, and without the LayerNorms they put first."""
    smp = pytest.importorskip("segmentation_models_pytorch")
    torch.manual_seed(0)
    theirs = smp.UPerNet("resnet18", encoder_weights=None, decoder_channels=32, classes=5, upsampling=1)
    for layer in theirs.modules():
        if isinstance(layer, nn.BatchNorm2d):  # statistics as after training, so that the norms are no identities
            nn.init.normal_(layer.running_mean, std=0.1)
            nn.init.uniform_(layer.running_var, 0.5, 1.5)
    theirs.decoder.feature_norms = nn.ModuleList(nn.Identity() for _ in range(4))
    ours = upernet(backbone_named("resnet18"), num_classes=5, channels=32)
    ours.load_state_dict({renamed(name): value for name, value in theirs.state_dict().items()})
    ours.eval(), theirs.eval()
    images = torch.randn(1, 3, 192, 256)  # a deepest map of 6x8, no smaller than the finest grid
    with torch.no_grad():
        logits = ours.decode(ours.backbone(images), (192, 256))
        torch.testing.assert_close(logits, theirs(images), atol=1e-5, rtol=0)


def test_upernet_over_resnet50_has_64_1_million_parameters(backbone_named):
    norm = 2 * 512
    pyramid = 4 * (2048 * 512 + norm)
    top = 9 * (2048 + 4 * 512) * 512 + norm
    laterals = (256 + 512 + 1024) * 512 + 3 * norm
    smooth = 3 * (9 * 512 * 512 + norm)
    fuse = 9 * 4 * 512 * 512 + norm
    classifier = (512 + 1) * 150
    with torch.device("meta"):
        model = upernet(backbone_named("resnet50"), num_classes=150, channels=512)
    decoder = pyramid + top + laterals + smooth + fuse + classifier
    assert sum(p.numel() for p in model.parameters()) == 23_508_032 + decoder == 64_098_518


@pytest.mark.parametrize(
    ("strides", "levels"),
    [
        ((2, 4, 8, 16, 32), ("patch1", "patch2", "patch3", "patch4")),
        ((4, 8, 16, 32), ("patch0", "patch1", "patch2", "patch3")),
        ((1, 2, 4, 8, 16), ("patch2", "patch3", "patch4")),
        ((4, 8, 8, 8), ("patch0", "patch3")),
        ((4, 8, 16, 16), ("patch0", "patch1", "patch3")),
    ],
)
def test_the_deepest_feature_of_every_stride_from_4_on_is_a_level(strides, levels):
    model = upernet(Patches(strides))
    assert model.levels == levels
    assert model(torch.randn(2, 3, 33, 47)).logits.shape == (2, 3, 33, 47)


def test_logits_are_made_at_the_finest_stride():
    model = upernet(Patches([2, 4, 8]))
    images = torch.randn(2, 3, 33, 47)
    assert model.decode(model.backbone(images), (33, 47)).shape == (2, 3, 9, 12)


def test_a_single_stride_is_refused():
    with pytest.raises(ConfigError, match=r"model=upernet joins .*; Patches has only patch0 \(stride 2\), patch1"):
        upernet(Patches([2, 16]))


def test_one_image_of_one_cell_trains():
    model = upernet(Patches([4, 8])).train()
    model(torch.randn(1, 3, 4, 4)).logits.square().mean().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("options", [{"channels": 0}, {"bins": [0]}, {"dropout": 1.0}])
def test_impossible_options_name_their_key(options):
    with pytest.raises(ConfigError, match=f"^model.{next(iter(options))}="):
        upernet(Patches([4, 8]), **options)
