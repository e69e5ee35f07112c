"""PSPNet against the paper's Figure 3 spelt out."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from segtrain.backbones.base import Backbone
from segtrain.errors import ConfigError
from segtrain.models.pspnet import PSPNet, PyramidPooling
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


def mean(x):
    return x.mean(dim=(2, 3))


def cells(x, rows, columns, reduction):
    """[1, C, H, W] -> [1, C, rows, columns]: row i goes from floor(i H / rows) to ceil((i + 1) H / rows)."""
    height, width = x.shape[-2:]
    pooled = torch.empty(1, x.shape[1], rows, columns)
    for i in range(rows):
        for j in range(columns):
            row = slice(i * height // rows, -(-(i + 1) * height // rows))
            column = slice(j * width // columns, -(-(j + 1) * width // columns))
            pooled[:, :, i, j] = reduction(x[:, :, row, column])
    return pooled


@pytest.mark.parametrize(("pooling", "reduction"), [("average", mean), ("max", lambda x: x.amax(dim=(2, 3)))])
@pytest.mark.parametrize("reduce", [True, False])
def test_pspnet_equals_figure_3_spelt_out(pooling, reduction, reduce):
    torch.manual_seed(0)
    model = pspnet(pooling=pooling, reduce=reduce).eval()
    images = torch.randn(1, 3, 50, 81)
    x = model.backbone(images)["patch"]
    levels = [x]
    for level, bins in zip(model.pyramid.levels, (1, 2, 3, 6), strict=True):
        pooled = cells(x, bins, bins, reduction)
        pooled = applied(level, pooled) if reduce else pooled
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


def test_levels_share_the_channels_of_the_map_unless_they_are_not_reduced():
    assert PyramidPooling(2048, 512, [1, 2, 3, 6], "average").out_channels == 4096
    assert PyramidPooling(2048, None, [1, 2, 3, 6], "average").out_channels == 5 * 2048


def test_a_grid_is_not_finer_than_the_map():
    pyramid = PyramidPooling(1, None, [6], "average")
    x = torch.randn(1, 1, 4, 9)
    expected = F.interpolate(cells(x, 4, 6, mean), size=(4, 9), mode="bilinear")
    torch.testing.assert_close(pyramid(x), torch.cat([x, expected], dim=1))


def test_one_image_of_one_cell_trains():
    model = pspnet().train()
    model(torch.randn(1, 3, 8, 8)).logits.square().mean().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("bins", [[], [0, 2]])
def test_bins_are_positive_numbers(bins):
    with pytest.raises(ConfigError, match=r"model.bins=.*positive numbers"):
        pspnet(bins=bins)


def test_a_dropout_of_one_is_refused():
    with pytest.raises(ConfigError, match=r"model.dropout=1.0: must lie in \[0, 1\)"):
        pspnet(dropout=1.0)
