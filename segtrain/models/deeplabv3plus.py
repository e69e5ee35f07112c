"""DeepLab v3+: DeepLab v3 as the encoder of an encoder-decoder, with depthwise separable convolutions."""

from functools import partial

import torch
from torch import Tensor, nn

from segtrain.backbones.base import Backbone
from segtrain.models.base import SegmentationModel
from segtrain.nn.aspp import ASPP
from segtrain.nn.checks import check_positive
from segtrain.nn.conv import ConvNormAct, SeparableConvNormAct
from segtrain.nn.init import he_init
from segtrain.nn.resize import resize_to


class DeepLabV3Plus(SegmentationModel):
    """`ASPP` on the deepest feature, resized to stride 4, joined by the backbone's feature there, and convolved.

    The feature of stride 4 (the deepest of that stride) is first reduced to few channels, so that it does not outweigh
    the encoder's 256, which know what is in the image where it knows only where things end. Initialised by `he_init`.

    Args:
        backbone: must have a feature of stride 4.
        atrous_rates: see `ASPP`; the paper's belong to output stride 16 and are doubled at 8.
        channels: of ASPP's branches, its output and the decoder.
        image_pooling: see `ASPP`.
        dropout: likewise.
        low_level_channels: to which the feature of stride 4 is reduced.
        num_decoder_convs: 3x3 convolutions after the two are joined, at least 1.
        separable_aspp: ASPP's 3x3 convolutions depthwise separable.
        separable_decoder: the decoder's, and `head_conv`.
        separable_norm_between: BatchNorm and ReLU after their depthwise convolutions too, as in the authors' code;
            segmentation_models.pytorch has them after the pointwise ones alone.
        head_conv: a further 3x3 convolution between ASPP and decoder, as segmentation_models.pytorch has it.
        align_corners: how both upsamplings place pixels: True puts the outermost pixel centres on each other, as the
            authors' code and segmentation_models.pytorch do; False the images' borders, which treats a crop as
            the part of the image that it is.

    Raises:
        ConfigError: a number is out of its range, or the backbone has no feature of stride 4.

    Source: Chen et al. 2018, arXiv:1802.02611, section 3.1, Figure 2; the decoder's numbers: Tables 1 and 2.
    """

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        atrous_rates: list[int],
        channels: int,
        image_pooling: bool,
        dropout: float,
        low_level_channels: int,
        num_decoder_convs: int,
        separable_aspp: bool,
        separable_decoder: bool,
        separable_norm_between: bool,
        head_conv: bool,
        align_corners: bool,
    ) -> None:
        super().__init__(backbone, num_classes)
        check_positive("model.low_level_channels", low_level_channels)
        check_positive("model.num_decoder_convs", num_decoder_convs)
        plain = partial(ConvNormAct, batch_norm=True)
        separable = partial(SeparableConvNormAct, norm_between=separable_norm_between)
        conv = separable if separable_decoder else plain
        self.align_corners = self.align_corners_at_end = align_corners
        self.low_level = backbone.feature(stride=4)
        self.aspp = ASPP(
            backbone.deepest.channels,
            channels,
            atrous_rates,
            image_pooling=image_pooling,
            dropout=dropout,
            conv=separable if separable_aspp else plain,
        )
        self.head_conv = conv(channels, channels) if head_conv else nn.Identity()
        self.reduce = plain(self.low_level.channels, low_level_channels, 1)
        widths = [channels + low_level_channels] + [channels] * num_decoder_convs
        self.decoder = nn.Sequential(*(conv(n, channels) for n in widths[:-1]))
        self.classifier = nn.Conv2d(channels, num_classes, 1)
        for part in (self.head_conv, self.reduce, self.decoder, self.classifier):
            he_init(part)

    def decode(self, features: dict[str, Tensor], size: tuple[int, int]) -> Tensor:
        low = self.reduce(features[self.low_level.name])
        x = self.head_conv(self.aspp(features[self.backbone.deepest.name]))
        x = resize_to(x, low, align_corners=self.align_corners)
        logits: Tensor = self.classifier(self.decoder(torch.cat([x, low], dim=1)))
        return logits
