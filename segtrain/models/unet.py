"""U-Net, over its own encoder or over any feature pyramid; with attention gates, with residual units."""

from typing import Literal

import torch
from torch import Tensor, nn

from segtrain.backbones.base import Backbone
from segtrain.errors import ConfigError
from segtrain.models.strides import HalvingModel, stage_numbers
from segtrain.nn.conv import ConvNormAct
from segtrain.nn.init import he_init
from segtrain.nn.preactivation import ResidualUnit
from segtrain.nn.resize import resize_to

Upsampling = Literal["transposed", "bilinear", "nearest"]


class UNet(HalvingModel):
    """A decoder climbs from the deepest feature back to the image, joining at each stride the backbone's feature there.

    Each stage halves the stride: upsample, concatenate the skip, two 3x3 convolutions. With strides 1, 2, 4, 8, 16
    (`UNetEncoder`), transposed upsampling and a 1x1 head it is the published network: 31.0 M parameters for one
    input channel and two classes. Over a backbone that starts at stride 2 or 4, the last stages have no skip to join.
    Decoder and head are initialised by `he_init`, attention gates as `AttentionGate` says.

    Args:
        backbone: its strides must be powers of two.
        decoder_channels: of the stages at strides ..., 16, 8, 4, 2, 1: the last number belongs to stride 1. Only those
            above the backbone's deepest feature are used: of five numbers, all for a backbone that ends at stride 32,
            the last four for one that ends at 16.
        upsampling: `transposed` is the paper's up-convolution (2x2, learned, to the stage's channels); `bilinear` and
            `nearest` have no weights and leave the channels to the convolutions.
        batch_norm: BatchNorm in the decoder's convolutions, not in the paper.
        attention: what a stage hands up gates the skip that the next one joins (Attention U-Net); every skip but the
            shallowest, which the authors leave out as too low-level to be judged.
        residual: the two convolutions become a residual unit (deep residual U-Net, which has BatchNorm too, no
            transposed upsampling, and `UNetEncoder.residual`).
        head_kernel_size: of the convolution that gives the logits, odd; the paper's is 1.

    Raises:
        ConfigError: too few `decoder_channels` for the backbone; the message says how many. Attention without a second
            skip.

    Source: Ronneberger et al. 2015, arXiv:1505.04597, Figure 1; attention: Oktay et al. 2018, arXiv:1804.03999,
    section 3.2; residual: Zhang et al. 2018, arXiv:1711.10684, Figure 2.
    """

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        decoder_channels: list[int],
        upsampling: Upsampling,
        batch_norm: bool,
        attention: bool,
        residual: bool,
        head_kernel_size: int,
    ) -> None:
        super().__init__(backbone, num_classes)
        if head_kernel_size < 1 or head_kernel_size % 2 == 0:
            raise ConfigError(f"model.head_kernel_size={head_kernel_size}: must be odd and positive")
        widths = stage_numbers(decoder_channels, self.strides, "model.decoder_channels")
        shallowest = backbone.features[0]
        if attention and all(skip in (None, shallowest) for skip in self.skip_features):
            raise ConfigError(
                "model.attention=true: it gates every skip but the shallowest, and "
                f"{type(backbone).__name__} has no other; set it to false"
            )
        channels = backbone.deepest.channels
        for skip, width in zip(self.skip_features, widths, strict=True):
            skip_channels = skip.channels if skip is not None else 0
            gated = attention and skip not in (None, shallowest)
            stage = DecoderStage(
                channels, skip_channels, width, upsampling, batch_norm, attention=gated, residual=residual
            )
            self.add_stage(stage, width)
            channels = width
        self.head = nn.Conv2d(channels, num_classes, head_kernel_size, padding=head_kernel_size // 2)
        he_init(self.head)


class DecoderStage(nn.Module):
    """Upsampling to `size`, concatenation of the skip, two 3x3 convolutions.

    x: [N, in_channels, h, w], skip: [N, skip_channels, H, W] or None -> [N, out_channels, H, W] with (H, W) = `size`,
    where h = ceil(H / 2) and w = ceil(W / 2). With `attention`, x gates the skip; with `residual`, the convolutions are
    a `ResidualUnit`.
    """

    def __init__(
        self,
        in_channels: int,
        skip_channels: int,
        out_channels: int,
        upsampling: Upsampling,
        batch_norm: bool,
        *,
        attention: bool,
        residual: bool,
    ) -> None:
        super().__init__()
        self.mode = upsampling
        up_channels = out_channels if upsampling == "transposed" else in_channels
        if upsampling == "transposed":
            self.up = nn.ConvTranspose2d(in_channels, out_channels, kernel_size=2, stride=2)
        if residual:
            self.unit = ResidualUnit(up_channels + skip_channels, out_channels, batch_norm=batch_norm)
        else:
            self.conv1 = ConvNormAct(up_channels + skip_channels, out_channels, batch_norm=batch_norm)
            self.conv2 = ConvNormAct(out_channels, out_channels, batch_norm=batch_norm)
        he_init(self)
        self.residual = residual
        self.gate = AttentionGate(skip_channels, in_channels) if attention else None

    def forward(self, x: Tensor, size: tuple[int, int], skip: Tensor | None) -> Tensor:
        upsampled = self._upsample(x, size)
        if skip is not None:
            if self.gate is not None:
                skip = self.gate(skip, x)
            upsampled = torch.cat([upsampled, skip], dim=1)
        result: Tensor = self.unit(upsampled) if self.residual else self.conv2(self.conv1(upsampled))
        return result

    def _upsample(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        if self.mode == "transposed":
            return self.up(x)[..., : size[0], : size[1]]  # twice the size is one too much where H or W is odd
        return resize_to(x, size, mode=self.mode)


class AttentionGate(nn.Module):
    """Weighs every pixel of a skip by what the coarser stage, which has seen more of the image, makes of it.

    skip: [N, skip_channels, H, W], signal: [N, signal_channels, ceil(H / 2), ceil(W / 2)] -> skip times coefficients
    in (0, 1), the same for all channels: sigmoid(psi(relu(W_x skip + W_g signal + b))), all 1x1 convolutions, computed
    at the signal's resolution (of the skip, every other row and column) and brought to the skip's bilinearly. Half of
    the skip's channels lie between, the default of the authors' code.

    Initialised by `he_init`, but for psi: every coefficient starts at about 0.95, so that all skips pass.

    Source: Oktay et al. 2018, arXiv:1804.03999, eq. 1 and 2, Figure 2, section 3.2.
    """

    def __init__(self, skip_channels: int, signal_channels: int) -> None:
        super().__init__()
        channels = max(1, skip_channels // 2)
        self.from_skip = nn.Conv2d(skip_channels, channels, 1, bias=False)
        self.from_signal = nn.Conv2d(signal_channels, channels, 1)
        self.psi = nn.Conv2d(channels, 1, 1)
        he_init(self)
        nn.init.normal_(self.psi.weight, std=0.01)
        assert self.psi.bias is not None
        nn.init.constant_(self.psi.bias, 3.0)  # sigmoid(3) = 0.95: open, and far from the sigmoid's flat end

    def forward(self, skip: Tensor, signal: Tensor) -> Tensor:
        agreement = torch.relu(self.from_skip(skip[..., ::2, ::2]) + self.from_signal(signal))
        coefficients = torch.sigmoid(self.psi(agreement))
        return skip * resize_to(coefficients, skip)
