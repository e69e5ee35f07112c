"""PSPNet against the paper's Figure 3 spelt out."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from segtrain.backbones.base import Backbone
from segtrain.errors import ConfigError
from segtrain.models.pspnet import PSPNet
from segtrain.types import Feature


class Patches(Backbone):
    """One feature of 8 channels at stride 8."""

    def __init__(self):
        super().__init__(3, [Feature("patch", 8, 8)])
        self.conv = nn.Conv2d(3, 8, 8, stride=8)

    def forward(self, images):
        height, width = images.shape[-2:]
        return {"patch": self.conv(F.pad(images, (0, -width % 8, 0, -height % 8)))}


def pspnet(backbone=None, **options):
    defaults = {"bins": [1, 2, 3, 6], "pooling": "average", "reduce": True, "channels": 16, "dropout": 0.1}
    return PSPNet(backbone or Patches(), **{"num_classes": 3} | defaults | options)


def applied(layer, x):
    """Convolution, BatchNorm by running statistics, ReLU."""
    norm = layer.norm
    x = F.conv2d(x, layer.conv.weight, padding=layer.conv.kernel_size[0] // 2)
    return F.relu(F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias))


@pytest.mark.parametrize(("pooling", "pool"), [("average", F.adaptive_avg_pool2d), ("max", F.adaptive_max_pool2d)])
@pytest.mark.parametrize("reduce", [True, False])
def test_pspnet_equals_figure_3_spelt_out(pooling, pool, reduce):
    torch.manual_seed(0)
    model = pspnet(pooling=pooling, reduce=reduce).eval()
    images = torch.randn(1, 3, 50, 81)
    x = model.backbone(images)["patch"]
    levels = [x]
    for level, bins in zip(model.pyramid.levels, (1, 2, 3, 6), strict=True):
        pooled = applied(level, pool(x, bins)) if reduce else pool(x, bins)
        levels.append(F.interpolate(pooled, size=x.shape[-2:], mode="bilinear", align_corners=False))
    logits = model.classifier(applied(model.bottleneck, torch.cat(levels, dim=1)))
    expected = F.interpolate(logits, size=(50, 81), mode="bilinear", align_corners=False)
    torch.testing.assert_close(model(images).logits, expected)


def test_pspnet_over_resnet50_has_46_6_million_parameters(backbone_named):
    # Four 1x1 convolutions 2048 -> 512 and their norms, 3x3 from 4096 to 512 and its norm, 1x1 to 21 classes.
    head = 4 * (2048 * 512 + 2 * 512) + (9 * 4096 * 512 + 2 * 512) + (512 + 1) * 21
    with torch.device("meta"):
        model = pspnet(backbone_named("resnet50"), num_classes=21, channels=512)
    assert sum(p.numel() for p in model.parameters()) == 23_508_032 + head == 46_592_597


def test_one_image_of_one_cell_trains():
    model = pspnet().train()
    model(torch.randn(1, 3, 8, 8)).logits.square().mean().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("options", [{"bins": []}, {"bins": [0, 2]}, {"channels": 0}, {"dropout": 1.0}])
def test_impossible_options_name_their_key(options):
    with pytest.raises(ConfigError, match=f"^model.{next(iter(options))}="):
        pspnet(**options)
