"""U-Net, over its own encoder or over any feature pyramid."""

from typing import Literal

import torch
from torch import Tensor, nn

from segtrain.backbones.base import Backbone
from segtrain.errors import ConfigError
from segtrain.models.base import SegmentationModel
from segtrain.nn.conv import ConvNormAct
from segtrain.nn.init import he_init
from segtrain.nn.resize import resize_to
from segtrain.types import ModelOutput

Upsampling = Literal["transposed", "bilinear", "nearest"]


class UNet(SegmentationModel):
    """A decoder climbs from the deepest feature back to the image, joining at each stride the backbone's feature there.

    Each stage halves the stride: upsample, concatenate the skip, two 3x3 convolutions. With strides 1, 2, 4, 8, 16
    (`UNetEncoder`), transposed upsampling and a 1x1 head it is the published network: 31.0 M parameters for one
    input channel and two classes. Over a backbone that starts at stride 2 or 4, the last stages have no skip to join.
    Decoder and head are initialised by `he_init`.

    Args:
        backbone: its strides must be powers of two.
        decoder_channels: of the stages at strides ..., 16, 8, 4, 2, 1: the last number belongs to stride 1. Only those
            above the backbone's deepest feature are used: of five numbers, all for a backbone that ends at stride 32,
            the last four for one that ends at 16.
        upsampling: `transposed` is the paper's up-convolution (2x2, learned, to the stage's channels); `bilinear` and
            `nearest` have no weights and leave the channels to the convolutions.
        batch_norm: BatchNorm in the decoder's convolutions, not in the paper.
        head_kernel_size: of the convolution that gives the logits, odd; the paper's is 1.

    Raises:
        ConfigError: too few `decoder_channels` for the backbone; the message says how many.

    Source: Ronneberger et al. 2015, arXiv:1505.04597, Figure 1.
    """

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        decoder_channels: list[int],
        upsampling: Upsampling,
        batch_norm: bool,
        head_kernel_size: int,
    ) -> None:
        super().__init__(backbone, num_classes)
        if head_kernel_size < 1 or head_kernel_size % 2 == 0:
            raise ConfigError(f"model.head_kernel_size={head_kernel_size}: must be odd and positive")
        channels = backbone.deepest.channels
        skips = {feature.stride: feature for feature in backbone.features}  # of several at one stride, the deepest
        self.strides = _strides_above(backbone)
        stages = []
        for stride, out_channels in zip(self.strides, _used(decoder_channels, self.strides), strict=True):
            skip_channels = skips[stride].channels if stride in skips else 0
            stages.append(DecoderStage(channels, skip_channels, out_channels, upsampling, batch_norm))
            channels = out_channels
        self.skips = tuple(skips[stride].name if stride in skips else None for stride in self.strides)
        self.decoder = nn.ModuleList(stages)
        self.head = nn.Conv2d(channels, num_classes, head_kernel_size, padding=head_kernel_size // 2)
        he_init(self.decoder)
        he_init(self.head)

    def forward(self, images: Tensor) -> ModelOutput:
        height, width = images.shape[-2:]
        features = self.backbone(images)
        x = features[self.backbone.deepest.name]
        for stage, stride, skip in zip(self.decoder, self.strides, self.skips, strict=True):
            size = (-(-height // stride), -(-width // stride))  # rounded up, as every backbone's features are
            x = stage(x, size, features[skip] if skip is not None else None)
        return ModelOutput(self.head(x), {})


class DecoderStage(nn.Module):
    """Upsampling to `size`, concatenation of the skip, two 3x3 convolutions.

    x: [N, in_channels, h, w], skip: [N, skip_channels, H, W] or None -> [N, out_channels, H, W] with (H, W) = `size`,
    where h = ceil(H / 2) and w = ceil(W / 2).
    """

    def __init__(
        self, in_channels: int, skip_channels: int, out_channels: int, upsampling: Upsampling, batch_norm: bool
    ) -> None:
        super().__init__()
        self.mode = upsampling
        if upsampling == "transposed":
            self.up = nn.ConvTranspose2d(in_channels, out_channels, kernel_size=2, stride=2)
            in_channels = out_channels
        self.conv1 = ConvNormAct(in_channels + skip_channels, out_channels, batch_norm=batch_norm)
        self.conv2 = ConvNormAct(out_channels, out_channels, batch_norm=batch_norm)

    def forward(self, x: Tensor, size: tuple[int, int], skip: Tensor | None) -> Tensor:
        x = self._upsample(x, size)
        if skip is not None:
            x = torch.cat([x, skip], dim=1)
        return self.conv2(self.conv1(x))

    def _upsample(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        if self.mode == "transposed":
            return self.up(x)[..., : size[0], : size[1]]  # twice the size is one too much where H or W is odd
        return resize_to(x, size, mode=self.mode)


def _strides_above(backbone: Backbone) -> tuple[int, ...]:
    """Strides of the stages, deep to shallow: 32 -> (16, 8, 4, 2, 1)."""
    deepest = backbone.deepest.stride
    num_stages = deepest.bit_length() - 1
    if deepest != 2**num_stages:
        raise ConfigError(
            f"model=unet halves strides, but {type(backbone).__name__} ends at stride {deepest}, no power of two"
        )
    return tuple(2**i for i in reversed(range(num_stages)))


def _used(decoder_channels: list[int], strides: tuple[int, ...]) -> list[int]:
    """The last numbers of `decoder_channels`, one for each stride."""
    too_few = max(0, len(strides) - len(decoder_channels))
    used = decoder_channels[len(decoder_channels) + too_few - len(strides) :]
    if too_few or min(used, default=1) < 1:
        positive = [width if width > 0 else 16 for width in used] or [16]
        example = [positive[0] * 2**i for i in range(too_few, 0, -1)] + positive
        raise ConfigError(
            f"model.decoder_channels={decoder_channels}: this backbone ends at stride {2 * strides[0]} and needs "
            f"{len(strides)} positive numbers, for strides {', '.join(map(str, strides))}; "
            f"for example model.decoder_channels=[{','.join(map(str, example[-len(strides) :]))}]"
        )
    return used
