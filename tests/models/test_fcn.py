"""FCN-32s, -16s, -8s as published, and torchvision's FCN."""

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from segtrain.backbones.base import Backbone
from segtrain.errors import ConfigError
from segtrain.models.auxiliary import FCNAuxiliary
from segtrain.models.fcn import FCN, DilatedFCN
from segtrain.types import Feature


class Cells(Backbone):
    """The mean of every cell of 8, 16 and 32 pixels, as four channels that differ by a factor."""

    def __init__(self, strides=(8, 16, 32)):
        super().__init__(1, [Feature(f"cell{stride}", 4, stride) for stride in strides])

    def forward(self, images):
        factors = torch.tensor([1.0, 2.0, -1.0, 0.5]).view(1, 4, 1, 1)
        return {f.name: factors * F.avg_pool2d(images, f.stride, ceil_mode=True) for f in self.features}


def fcn(finest_stride=8, backbone=None, **options):
    defaults = {"num_classes": 3, "upsampling": "learned", "final_upsampling": "fixed", "skip_scales": [1.0, 1.0]}
    return FCN(backbone or Cells(), finest_stride=finest_stride, **defaults | options)


def with_random_scores(model):
    torch.manual_seed(0)
    for parameter in model.score.parameters():
        nn.init.normal_(parameter)
    return model


@pytest.fixture(scope="module")
def published(backbone_named):
    """The network over VGG-16 for VOC's 21 classes, without memory for its weights."""

    def build(finest_stride):
        with torch.device("meta"):
            return fcn(finest_stride, backbone_named("vgg16_fc"), num_classes=21)

    return build


def num_parameters(model):
    return sum(parameter.numel() for parameter in model.parameters())


def bilinear(x, factor):
    return F.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=False)


def test_fcn32s_has_134_3_million_parameters(published):
    # 14,714,688 in VGG-16's convolutions, 102,764,544 in fc6, 16,781,312 in fc7, 86,037 in the score layer. The paper
    # gives 134 M for FCN-VGG16 (arXiv:1411.4038, Table 1).
    assert num_parameters(published(32)) == 134_346_581


def test_fcn8s_with_kernels_between_all_classes_would_have_the_134_5_million_that_are_quoted(published):
    # Quoted for FCN8 in arXiv:1611.09326, Table 3. Caffe's transposed convolutions hold a kernel for each pair of
    # classes, of which only the diagonal is not zero: twice 4x4, once 16x16.
    model = published(8)
    skips = (512 + 1) * 21 + (256 + 1) * 21
    assert num_parameters(model) == 134_346_581 + skips + 2 * 21 * 4 * 4
    assert 134_346_581 + skips + 21 * 21 * (2 * 4 * 4 + 16 * 16) == 134_489_759


def test_fcn8s_scores_pool3_pool4_and_fc7(published):
    assert [feature.name for feature in published(8).streams] == ["fc7", "pool4", "pool3"]


@pytest.mark.parametrize("upsampling", ["learned", "fixed"])
def test_fcn8s_equals_figure_3_spelt_out(upsampling):
    model = with_random_scores(fcn(8, upsampling=upsampling, final_upsampling=upsampling, skip_scales=[0.5, 0.1]))
    images = torch.randn(2, 1, 64, 96)
    x, score = model.backbone(images), model.score
    fused16 = bilinear(score["stride32"](x["cell32"]), 2) + score["stride16"](0.5 * x["cell16"])
    fused8 = bilinear(fused16, 2) + score["stride8"](0.1 * x["cell8"])
    torch.testing.assert_close(model(images).logits, bilinear(fused8, 8))


@pytest.mark.parametrize("finest_stride", [8, 16, 32])
@pytest.mark.parametrize("upsampling", ["learned", "fixed"])
def test_a_ramp_in_the_image_is_a_ramp_in_the_logits_whatever_the_size(finest_stride, upsampling):
    """97 is 3 * 32 + 1: were the scores stretched to the image, the ramp would be a quarter too flat.

    Beyond the centres of the outermost cells there is nothing to interpolate between: rows 28 to 64 do not see them.
    """
    model = with_random_scores(fcn(finest_stride, upsampling=upsampling, final_upsampling=upsampling))
    ramp = torch.arange(97.0)
    step = model(ramp.view(1, 1, 97, 1).expand(1, 1, 97, 97)).logits.diff(dim=2)[..., 28:64, :]
    slopes = sum(score.weight[:, :, 0, 0] @ torch.tensor([1.0, 2.0, -1.0, 0.5]) for score in model.score.values())
    torch.testing.assert_close(step, slopes.view(1, 3, 1, 1).expand_as(step), atol=1e-3, rtol=0)


def test_a_new_network_predicts_zero():
    assert not fcn()(torch.randn(1, 1, 33, 47)).logits.any()


@pytest.mark.parametrize(("coarse", "fine"), [(32, 16), (16, 8)])
def test_a_finer_network_takes_over_a_coarser_ones_weights_and_starts_with_its_scores(coarse, fine):
    coarser, finer = with_random_scores(fcn(coarse, final_upsampling="learned")), fcn(fine, final_upsampling="learned")
    unmatched = finer.load_state_dict(coarser.state_dict(), strict=False)
    new = [f"score.stride{fine}.weight", f"score.stride{fine}.bias"]
    assert sorted(unmatched.missing_keys) == sorted(
        [*new, f"upsample.{coarse}to{fine}.weight", f"upsample.{fine}to1.weight"]
    )
    assert unmatched.unexpected_keys == [f"upsample.{coarse}to1.weight"]
    images = torch.randn(1, 1, 64, 64)
    at_coarse_pixels = [bilinear(coarser.score["stride32"](coarser.backbone(images)["cell32"]), 2)]
    if coarse == 16:
        skip = coarser.score["stride16"](coarser.backbone(images)["cell16"])
        at_coarse_pixels = [bilinear(at_coarse_pixels[0] + skip, 2)]
    torch.testing.assert_close(finer(images).logits, bilinear(at_coarse_pixels[0], fine))


def test_gradients_pass_the_score_layers_from_the_second_step_on(backbone_named):
    model = fcn(backbone=backbone_named("resnet18"))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    images, labels = torch.randn(2, 3, 33, 47), torch.randint(3, (2, 33, 47))
    reached = []
    for _ in range(2):
        optimizer.zero_grad()
        F.cross_entropy(model(images).logits, labels).backward()
        reached.append({name for name, p in model.named_parameters() if p.grad is not None and p.grad.any()})
        optimizer.step()
    assert reached[0] == {f"score.stride{stride}.{kind}" for stride in (8, 16, 32) for kind in ("weight", "bias")}
    assert reached[1] == {name for name, _ in model.named_parameters()}


def test_a_backbone_that_ends_above_the_finest_stride_is_refused():
    with pytest.raises(
        ConfigError, match=r"model.finest_stride=32: Cells ends at stride 16; take .* or set it to 16 or 8"
    ):
        fcn(32, Cells([8, 16]))


def test_a_backbone_without_a_skips_stride_is_refused():
    with pytest.raises(ConfigError, match="Cells has no feature with stride 16"):
        fcn(8, Cells([8, 32]))


@pytest.mark.parametrize("skip_scales", [[1.0], [1.0, 0.0]])
def test_skip_scales_are_two_positive_numbers(skip_scales):
    with pytest.raises(ConfigError, match=r"model.skip_scales=.*two positive numbers"):
        fcn(skip_scales=skip_scales)


@pytest.fixture(scope="module")
def torchvisions(backbone_named):
    """torchvision's fcn_resnet50 with statistics as after training, and ours with its weights."""
    torch.manual_seed(0)
    theirs = torchvision.models.segmentation.fcn_resnet50(
        weights=None, weights_backbone=None, num_classes=5, aux_loss=True
    )
    for layer in theirs.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.normal_(layer.running_mean, std=0.1)
            nn.init.uniform_(layer.running_var, 0.5, 1.5)
    backbone = backbone_named("resnet50", output_stride=8)
    ours = DilatedFCN(backbone, 5, dropout=0.1)
    ours.add_auxiliary("stage4", FCNAuxiliary(backbone.feature("layer3"), 5, dropout=0.1), weight=0.5)
    heads = {"classifier": "head", "aux_classifier": "auxiliary.stage4"}
    layers = {"0": "conv.conv", "1": "conv.norm", "4": "classifier"}

    def renamed(name):
        part, _, rest = name.partition(".")
        index, _, kind = rest.partition(".")
        return name if part == "backbone" else f"{heads[part]}.{layers[index]}.{kind}"

    ours.load_state_dict({renamed(name): value for name, value in theirs.state_dict().items()})
    return ours, theirs


def test_equal_weights_give_torchvisions_logits(torchvisions):
    ours, theirs = (model.eval() for model in torchvisions)
    images = torch.randn(2, 3, 65, 97)
    with torch.no_grad():
        torch.testing.assert_close(ours(images).logits, theirs(images)["out"], atol=1e-5, rtol=0)


def test_equal_weights_give_torchvisions_auxiliary_logits_in_training(torchvisions):
    ours, theirs = (model.train() for model in torchvisions)
    for model in torchvisions:  # what is drawn differs
        for layer in model.modules():
            if isinstance(layer, nn.Dropout):
                layer.eval()
    images = torch.randn(2, 3, 65, 97)
    with torch.no_grad():
        expected, output = theirs(images), ours(images)
    torch.testing.assert_close(output.aux["stage4"], expected["aux"], atol=1e-5, rtol=0)
    torch.testing.assert_close(output.logits, expected["out"], atol=1e-5, rtol=0)
