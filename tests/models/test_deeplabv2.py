"""DeepLab v2: several scales, their maximum, and a loss on each."""

import pytest
import torch
import torch.nn.functional as F

from segtrain.backbones.resnet import ResNet
from segtrain.backbones.vgg import VGG
from segtrain.errors import ConfigError
from segtrain.losses import Criterion, CrossEntropy
from segtrain.models.auxiliary import AuxiliaryOptions
from segtrain.models.deeplabv2 import DeepLabV2


def deeplab(scales=(1.0, 0.75, 0.5), branch_channels=None, atrous_rates=(6, 12, 18, 24), dropout=0.0):
    torch.manual_seed(0)
    backbone = ResNet(3, "resnet18", None, 8, False, None, [], 1)
    return DeepLabV2(backbone, 3, list(atrous_rates), branch_channels, dropout, list(scales))


def images_of(*size):
    return torch.randn(*size, generator=torch.Generator().manual_seed(0))


def test_the_largest_logit_over_the_scales_counts():
    images = images_of(1, 3, 33, 47)
    at_scale = []
    with torch.no_grad():
        single = deeplab([1.0]).eval()
        for size in [(33, 47), (25, 35), (16, 24)]:  # 33 * 0.75 = 24.75, 47 * 0.75 = 35.25, 16.5 -> 16, 23.5 -> 24
            scores = single.aspp(single.backbone(F.interpolate(images, size, mode="bilinear"))["layer4"])
            at_scale.append(F.interpolate(scores, (33, 47), mode="bilinear"))
        expected = torch.stack(at_scale).amax(dim=0)
        torch.testing.assert_close(deeplab().eval()(images).logits, expected)


def test_one_scale_is_the_plain_network():
    model = deeplab([1.0])
    assert model.aux_weights == {}
    assert model(images_of(2, 3, 32, 32)).aux == {}


def test_every_scale_is_an_auxiliary_output_in_training_alone():
    model, images = deeplab(), images_of(2, 3, 33, 47)
    output = model(images)
    assert model.aux_weights == {"scale_1": 1.0, "scale_0.75": 1.0, "scale_0.5": 1.0}
    assert torch.equal(torch.stack(list(output.aux.values())).amax(dim=0), output.logits)
    assert model.eval()(images).aux == {}


def test_auxiliary_heads_stand_beside_the_scales():
    model = deeplab([1.0, 0.5])
    head = AuxiliaryOptions(feature="layer3", weight=0.4, head="fcn", dropout=0.1)
    model.add_auxiliary("stage4", head.build(model.backbone, (), 3), head.weight)
    output = model(images_of(2, 3, 32, 32))
    assert set(output.aux) == set(model.aux_weights) == {"stage4", "scale_1", "scale_0.5"}


def test_the_loss_is_the_sum_over_the_fused_and_every_scale():
    model, labels = deeplab(), torch.zeros(2, 32, 32, dtype=torch.long)
    output = model(images_of(2, 3, 32, 32))
    criterion = Criterion(CrossEntropy(3, 255, None, label_smoothing=0.0), model.aux_weights)
    expected = sum(F.cross_entropy(logits, labels) for logits in (output.logits, *output.aux.values()))
    torch.testing.assert_close(criterion(output, labels).total, expected)


def test_aspp_over_vgg_16_has_the_papers_parameters():
    with torch.device("meta"):
        backbone = VGG(3, "vgg16", None, 8, False, None, "conv", 3, None, 7, 1, 0.5)
        model = DeepLabV2(backbone, 21, [6, 12, 18, 24], 1024, 0.5, [1.0])
    # VGG-16's convolutions, then four times LargeFOV's fc6, fc7 and fc8.
    expected = 14_714_688 + 4 * (4_719_616 + 1_049_600 + 21_525)
    assert sum(p.numel() for p in model.parameters()) == expected


@pytest.mark.parametrize(
    "scales", [[], [0.75, 0.5], [1.0, 1.0], [1.0, 0.09], [1.0, -0.5], [1.0, 4.1], [1.0, 0.333333333, 0.3333333334]]
)
def test_scales_without_the_full_one_or_out_of_range_are_refused(scales):
    with pytest.raises(ConfigError, match=r"model\.scales="):
        deeplab(scales)
