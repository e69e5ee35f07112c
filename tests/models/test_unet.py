"""U-Net: the published network, and segmentation_models.pytorch's."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from segtrain.backbones.base import Backbone
from segtrain.backbones.unet_encoder import UNetEncoder
from segtrain.errors import ConfigError
from segtrain.models.unet import AttentionGate, UNet
from segtrain.types import Feature


def unet(backbone, **options):
    defaults = {"upsampling": "transposed", "batch_norm": False, "head_kernel_size": 1, "num_classes": 2}
    switches = {"attention": False, "residual": False}
    return UNet(backbone, **{"decoder_channels": [512, 512, 256, 128, 64]} | defaults | switches | options)


def published(in_channels=1, channels=(64, 128, 256, 512, 1024), **options):
    backbone = UNetEncoder(in_channels, list(channels), batch_norm=False, residual=False, dropout=0.0)
    return unet(backbone, decoder_channels=list(channels[-2::-1]), **options)


def light(backbone, **options):
    defaults = {"decoder_channels": [256, 128, 64, 32, 16], "upsampling": "nearest"}
    return unet(backbone, **defaults | {"batch_norm": True, "head_kernel_size": 3} | options)


def deep_residual(in_channels=3):
    """Zhang et al. 2018, arXiv:1711.10684, Table I, with two classes for one."""
    backbone = UNetEncoder(in_channels, [64, 128, 256, 512], batch_norm=True, residual=True, dropout=0.0)
    options = {"upsampling": "bilinear", "batch_norm": True, "residual": True}
    return unet(backbone, decoder_channels=[256, 128, 64], **options)


class ReferenceUNet(nn.Module):
    """Figure 1 of arXiv:1505.04597 spelt out, with padded convolutions; for sizes divisible by 16."""

    def __init__(self):
        super().__init__()
        self.down1a, self.down1b = nn.Conv2d(1, 64, 3, padding=1), nn.Conv2d(64, 64, 3, padding=1)
        self.down2a, self.down2b = nn.Conv2d(64, 128, 3, padding=1), nn.Conv2d(128, 128, 3, padding=1)
        self.down3a, self.down3b = nn.Conv2d(128, 256, 3, padding=1), nn.Conv2d(256, 256, 3, padding=1)
        self.down4a, self.down4b = nn.Conv2d(256, 512, 3, padding=1), nn.Conv2d(512, 512, 3, padding=1)
        self.down5a, self.down5b = nn.Conv2d(512, 1024, 3, padding=1), nn.Conv2d(1024, 1024, 3, padding=1)
        self.up4 = nn.ConvTranspose2d(1024, 512, 2, stride=2)
        self.up4a, self.up4b = nn.Conv2d(1024, 512, 3, padding=1), nn.Conv2d(512, 512, 3, padding=1)
        self.up3 = nn.ConvTranspose2d(512, 256, 2, stride=2)
        self.up3a, self.up3b = nn.Conv2d(512, 256, 3, padding=1), nn.Conv2d(256, 256, 3, padding=1)
        self.up2 = nn.ConvTranspose2d(256, 128, 2, stride=2)
        self.up2a, self.up2b = nn.Conv2d(256, 128, 3, padding=1), nn.Conv2d(128, 128, 3, padding=1)
        self.up1 = nn.ConvTranspose2d(128, 64, 2, stride=2)
        self.up1a, self.up1b = nn.Conv2d(128, 64, 3, padding=1), nn.Conv2d(64, 64, 3, padding=1)
        self.out = nn.Conv2d(64, 2, 1)

    def forward(self, x):
        level1 = F.relu(self.down1b(F.relu(self.down1a(x))))
        level2 = F.relu(self.down2b(F.relu(self.down2a(F.max_pool2d(level1, 2)))))
        level3 = F.relu(self.down3b(F.relu(self.down3a(F.max_pool2d(level2, 2)))))
        level4 = F.relu(self.down4b(F.relu(self.down4a(F.max_pool2d(level3, 2)))))
        level5 = F.relu(self.down5b(F.relu(self.down5a(F.max_pool2d(level4, 2)))))
        x = F.relu(self.up4b(F.relu(self.up4a(torch.cat([self.up4(level5), level4], 1)))))
        x = F.relu(self.up3b(F.relu(self.up3a(torch.cat([self.up3(x), level3], 1)))))
        x = F.relu(self.up2b(F.relu(self.up2a(torch.cat([self.up2(x), level2], 1)))))
        x = F.relu(self.up1b(F.relu(self.up1a(torch.cat([self.up1(x), level1], 1)))))
        return self.out(x)


def test_published_unet_equals_a_plain_reference_with_the_same_weights():
    torch.manual_seed(0)
    reference, model = ReferenceUNet(), published()
    with torch.no_grad():
        for ours, theirs in zip(model.parameters(), reference.parameters(), strict=True):
            theirs.copy_(ours)
    images = torch.randn(1, 1, 48, 64)
    with torch.no_grad():
        torch.testing.assert_close(model(images).logits, reference(images), atol=1e-5, rtol=1e-5)


def test_published_unet_has_31_0_million_parameters():
    # Counted level by level: 18,842,048 down, 12,188,480 up, 130 in the last convolution.
    assert sum(p.numel() for p in published().parameters()) == 31_030_658
    assert sum(p.numel() for p in published().backbone.parameters()) == 18_842_048


@pytest.mark.parametrize(
    ("name", "decoder_interpolation"), [("resnet18", "nearest"), ("resnet34", "nearest"), ("resnet18", "bilinear")]
)
def test_equal_weights_give_the_logits_of_segmentation_models_pytorch(name, decoder_interpolation, backbone_named):
    smp = pytest.importorskip("segmentation_models_pytorch")
    torch.manual_seed(0)
    theirs = smp.Unet(name, encoder_weights=None, classes=5, decoder_interpolation=decoder_interpolation)
    ours = light(backbone_named(name), num_classes=5, upsampling=decoder_interpolation)
    assert_equal_logits(ours, theirs)


def test_equal_weights_give_the_logits_of_segmentation_models_pytorch_over_efficientnet_b0(backbone_named):
    smp = pytest.importorskip("segmentation_models_pytorch")
    torch.manual_seed(0)
    # timm's encoder (`tu-`) joins, as we do, the last stage of each stride; smp's own joins the stem at stride 2.
    theirs = smp.Unet("tu-efficientnet_b0", encoder_weights=None, classes=5)
    ours = light(backbone_named("efficientnet_b0"), num_classes=5)
    assert_equal_logits(ours, theirs)


def assert_equal_logits(ours, theirs):
    """With weights taken over in order: both networks register their layers as they run."""
    for layer in theirs.modules():
        if isinstance(layer, nn.BatchNorm2d):  # statistics as after training, so that the norms are no identities
            nn.init.normal_(layer.running_mean, std=0.1)
            nn.init.uniform_(layer.running_var, 0.5, 1.5)
    ours.load_state_dict(dict(zip(ours.state_dict(), theirs.state_dict().values(), strict=True)))
    images = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        torch.testing.assert_close(ours.eval()(images).logits, theirs.eval()(images), atol=1e-5, rtol=0)


def test_decoder_uses_the_numbers_that_belong_to_strides_above_the_deepest_feature(backbone_named):
    model = light(backbone_named("resnet18", output_stride=16))
    assert [stage.conv2.conv.out_channels for stage in model.decoder] == [128, 64, 32, 16]  # strides 8, 4, 2, 1
    assert model.strides == (8, 4, 2, 1)
    assert model.skips == ("layer2", "layer1", "stem", None)


def test_too_few_decoder_channels_are_told_a_remedy_that_works(backbone_named):
    with pytest.raises(ConfigError, match=r"needs 5 positive numbers.*=\[64,64,64,64,32\]"):
        light(backbone_named("resnet18"), decoder_channels=[64, 32])
    light(backbone_named("resnet18"), decoder_channels=[64, 64, 64, 64, 32])


class Patches(Backbone):
    """A pyramid that starts at stride 4, as those of patch-wise networks do."""

    def __init__(self, strides):
        super().__init__(3, [Feature(f"patch{stride}", 4, stride) for stride in strides])

    def forward(self, images):
        return {f.name: F.avg_pool2d(images, f.stride, ceil_mode=True)[:, [0, 1, 2, 0]] for f in self.features}


@pytest.mark.parametrize("upsampling", ["transposed", "bilinear", "nearest"])
def test_stages_without_a_skip_still_reach_the_input_size(upsampling):
    model = light(Patches([4, 8]), upsampling=upsampling)
    assert model.skips == ("patch4", None, None)
    assert model(torch.randn(1, 3, 37, 30)).logits.shape == (1, 2, 37, 30)


def test_strides_that_are_no_powers_of_two_are_refused():
    with pytest.raises(ConfigError, match="Patches ends at stride 14"):
        light(Patches([14]))


def test_an_even_head_kernel_is_refused():
    with pytest.raises(ConfigError, match="head_kernel_size=2"):
        light(Patches([4, 8]), head_kernel_size=2)


def test_logits_of_channels_last_images_are_the_same():
    torch.manual_seed(0)
    model, images = published(channels=(4, 8, 16)).eval(), torch.randn(2, 1, 21, 18)
    expected = model(images).logits
    logits = model.to(memory_format=torch.channels_last)(images.to(memory_format=torch.channels_last)).logits
    torch.testing.assert_close(logits, expected)


SWITCHES = [{"attention": True}, {"residual": True}, {"attention": True, "residual": True}]


@pytest.mark.parametrize("options", SWITCHES, ids="+".join)
@pytest.mark.parametrize("size", [(1, 1), (16, 16), (21, 18)], ids="{0[0]}x{0[1]}".format)
def test_every_switch_takes_any_size_and_learns_from_a_batch_of_one(options, size):
    torch.manual_seed(0)
    backbone = UNetEncoder(1, [4, 8, 16], batch_norm=True, residual=options.get("residual", False), dropout=0.0)
    model = unet(backbone, decoder_channels=[8, 4], batch_norm=True, **options).train()
    logits = model(torch.randn(1, 1, *size)).logits
    assert logits.shape == (1, 2, *size)
    logits.square().mean().backward()
    assert size == (1, 1) or all(p.grad is not None and p.grad.any() for p in model.parameters())


def test_attention_gate_is_the_papers_equation():
    torch.manual_seed(0)
    gate, skip, signal = AttentionGate(6, 5), torch.randn(1, 6, 4, 4), torch.randn(1, 5, 2, 2)
    nn.init.normal_(gate.psi.weight)
    coefficients = torch.empty(2, 2)
    for y in range(2):
        for x in range(2):
            q = gate.from_skip.weight[:, :, 0, 0] @ skip[0, :, 2 * y, 2 * x]
            q = q + gate.from_signal.weight[:, :, 0, 0] @ signal[0, :, y, x] + gate.from_signal.bias
            coefficients[y, x] = torch.sigmoid(gate.psi.weight[0, :, 0, 0] @ q.relu() + gate.psi.bias[0])
    expected = skip * F.interpolate(coefficients[None, None], size=(4, 4), mode="bilinear")
    torch.testing.assert_close(gate(skip, signal), expected)


def test_attention_gates_start_open():
    torch.manual_seed(0)
    gate, skip = AttentionGate(64, 128), torch.randn(1, 64, 8, 8)
    torch.testing.assert_close(gate(skip, torch.randn(1, 128, 4, 4)), 0.95 * skip, atol=0, rtol=0.05)


def test_every_skip_but_the_shallowest_is_gated_by_the_stage_below():
    gates = [stage.gate for stage in published(attention=True).decoder]
    assert [gate is not None for gate in gates] == [True, True, True, False]
    channels = [(gate.from_skip.in_channels, gate.from_signal.in_channels) for gate in gates[:3]]
    assert channels == [(512, 1024), (256, 512), (128, 256)]


def test_attention_without_a_skip_to_gate_is_refused():
    with pytest.raises(ConfigError, match="model.attention=true.*Patches has no other"):
        light(Patches([4, 8]), attention=True)


class ReferenceResidualUNet(nn.Module):
    """Figure 2 of arXiv:1711.10684 spelt out over two levels and a bridge."""

    def __init__(self):
        super().__init__()
        self.first, self.shortcut1 = nn.Conv2d(1, 4, 3, padding=1, bias=False), nn.Conv2d(1, 4, 1, bias=False)
        self.bn1, self.conv1 = nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.bn2a, self.conv2a = nn.BatchNorm2d(4), nn.Conv2d(4, 8, 3, stride=2, padding=1, bias=False)
        self.bn2b, self.conv2b = nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.shortcut2 = nn.Conv2d(4, 8, 1, stride=2, bias=False)
        self.bn3a, self.conv3a = nn.BatchNorm2d(12), nn.Conv2d(12, 4, 3, padding=1, bias=False)
        self.bn3b, self.conv3b = nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.shortcut3, self.out = nn.Conv2d(12, 4, 1, bias=False), nn.Conv2d(4, 2, 1)

    def forward(self, images):
        level1 = self.conv1(F.relu(self.bn1(self.first(images)))) + self.shortcut1(images)
        bridge = self.conv2b(F.relu(self.bn2b(self.conv2a(F.relu(self.bn2a(level1)))))) + self.shortcut2(level1)
        up = torch.cat([F.interpolate(bridge, scale_factor=2, mode="bilinear"), level1], dim=1)
        return self.out(self.conv3b(F.relu(self.bn3b(self.conv3a(F.relu(self.bn3a(up)))))) + self.shortcut3(up))


def test_residual_unet_equals_a_plain_reference_with_the_same_weights():
    torch.manual_seed(0)
    backbone = UNetEncoder(1, [4, 8], batch_norm=True, residual=True, dropout=0.0)
    options = {"upsampling": "bilinear", "batch_norm": True, "residual": True}
    model, reference = unet(backbone, decoder_channels=[4], **options), ReferenceResidualUNet()
    assert sorted(p.shape for p in model.parameters()) == sorted(p.shape for p in reference.parameters())
    first, second, last = (*backbone.levels, model.decoder[0].unit)
    with torch.no_grad():
        for theirs, ours in [
            (reference.first, first.conv1),
            (reference.conv1, first.conv2.conv),
            (reference.shortcut1, first.shortcut),
            (reference.conv2a, second.conv1.conv),
            (reference.conv2b, second.conv2.conv),
            (reference.shortcut2, second.shortcut),
            (reference.conv3a, last.conv1.conv),
            (reference.conv3b, last.conv2.conv),
            (reference.shortcut3, last.shortcut),
            (reference.out, model.head),
        ]:
            theirs.load_state_dict(ours.state_dict())
    images = torch.randn(2, 1, 8, 12)
    torch.testing.assert_close(model(images).logits, reference(images))


def test_deep_residual_unet_has_7_8_million_parameters_beside_its_shortcuts():
    # arXiv:1711.10684: 7.8 M against U-Net's 30.6 M. The paper calls every shortcut an identity; where
    # channels change, it must be a projection, which its number seems to leave out: 0.43 M in ours.
    with torch.device("meta"):
        model = deep_residual()
    shortcuts = sum(p.numel() for name, p in model.named_parameters() if "shortcut" in name)
    assert round((sum(p.numel() for p in model.parameters()) - shortcuts) / 1e6, 1) == 7.8
    assert (
        shortcuts == 3 * 64 + 64 * 128 + 128 * 256 + 256 * 512 + (512 + 256) * 256 + (256 + 128) * 128 + (128 + 64) * 64
    )


def test_no_switch_brings_a_strided_1x1_convolution_of_few_channels():
    # oneDNN issue 6035: channels last, below 16 channels, its backward pass corrupts memory.
    backbone = UNetEncoder(1, [4, 8, 16], batch_norm=True, residual=True, dropout=0.0)
    model = unet(backbone, decoder_channels=[8, 4], attention=True, residual=True)
    convs = [layer for layer in model.modules() if isinstance(layer, nn.Conv2d)]
    assert not [conv for conv in convs if conv.kernel_size == (1, 1) and conv.stride != (1, 1)]
