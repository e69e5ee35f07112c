"""U-Net: the published network, and segmentation_models.pytorch's."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from segtrain.backbones.base import Backbone
from segtrain.backbones.resnet import ResNet
from segtrain.backbones.unet_encoder import UNetEncoder
from segtrain.errors import ConfigError
from segtrain.models.unet import UNet
from segtrain.types import Feature


def published(in_channels=1, num_classes=2, channels=(64, 128, 256, 512, 1024)):
    backbone = UNetEncoder(in_channels, list(channels), batch_norm=False, dropout=0.0)
    return UNet(backbone, num_classes, list(channels[-2::-1]), "transposed", batch_norm=False, head_kernel_size=1)


def light(backbone, **options):
    defaults = {"upsampling": "nearest", "batch_norm": True, "head_kernel_size": 3, "num_classes": 2}
    return UNet(backbone, **{"decoder_channels": [256, 128, 64, 32, 16]} | defaults | options)


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
def test_equal_weights_give_the_logits_of_segmentation_models_pytorch(name, decoder_interpolation):
    smp = pytest.importorskip("segmentation_models_pytorch")
    torch.manual_seed(0)
    theirs = smp.Unet(name, encoder_weights=None, classes=5, decoder_interpolation=decoder_interpolation)
    for layer in theirs.modules():
        if isinstance(layer, nn.BatchNorm2d):  # statistics as after training, so that the norms are no identities
            nn.init.normal_(layer.running_mean, std=0.1)
            nn.init.uniform_(layer.running_var, 0.5, 1.5)
    renamed = {
        key.replace("encoder.", "backbone.")
        .replace("decoder.blocks.", "decoder.")
        .replace("segmentation_head.0.", "head.")
        .replace("conv1.0.", "conv1.conv." if "decoder" in key else "conv1.0.")
        .replace("conv1.1.", "conv1.norm." if "decoder" in key else "conv1.1.")
        .replace("conv2.0.", "conv2.conv." if "decoder" in key else "conv2.0.")
        .replace("conv2.1.", "conv2.norm." if "decoder" in key else "conv2.1."): value
        for key, value in theirs.state_dict().items()
    }
    ours = light(ResNet(3, name, None, 32), num_classes=5, upsampling=decoder_interpolation)
    ours.load_state_dict(renamed)
    images = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        torch.testing.assert_close(ours.eval()(images).logits, theirs.eval()(images), atol=1e-5, rtol=0)


def test_decoder_uses_the_numbers_that_belong_to_strides_above_the_deepest_feature():
    model = light(ResNet(3, "resnet18", None, 16))
    assert [stage.conv2.conv.out_channels for stage in model.decoder] == [128, 64, 32, 16]  # strides 8, 4, 2, 1
    assert model.strides == (8, 4, 2, 1)
    assert model.skips == ("layer2", "layer1", "stem", None)


def test_too_few_decoder_channels_are_told_a_remedy_that_works():
    with pytest.raises(ConfigError, match=r"needs 5 positive numbers.*=\[512,256,128,64,32\]"):
        light(ResNet(3, "resnet18", None, 32), decoder_channels=[64, 32])
    light(ResNet(3, "resnet18", None, 32), decoder_channels=[512, 256, 128, 64, 32])


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
