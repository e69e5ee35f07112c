"""DeepLab v3: atrous spatial pyramid pooling with BatchNorm and the image as a whole."""

from functools import partial

from torch import Tensor, nn

from segtrain.backbones.base import Backbone
from segtrain.models.base import SegmentationModel
from segtrain.nn.aspp import ASPP
from segtrain.nn.conv import ConvNormAct
from segtrain.nn.init import he_init


class DeepLabV3(SegmentationModel):
    """`ASPP` on the backbone's deepest feature, a 1x1 classifier; its logits are resized bilinearly.

    Multi-grid, which the paper adds, is the backbone's (`multi_grid`). Initialised by `he_init`.

    Args:
        atrous_rates: see `ASPP`. The paper's belong to output stride 16 and are doubled at 8.
        channels: of ASPP's branches and its output.
        image_pooling: see `ASPP`.
        dropout: likewise.
        head_conv: a 3x3 convolution with BatchNorm and ReLU between ASPP and classifier. torchvision's network has it,
            the paper's has not.

    Source: Chen et al. 2017, arXiv:1706.05587, section 3.3 and Figure 5.
    """

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        atrous_rates: list[int],
        channels: int,
        image_pooling: bool,
        dropout: float,
        head_conv: bool,
    ) -> None:
        super().__init__(backbone, num_classes)
        conv = partial(ConvNormAct, batch_norm=True)
        self.aspp = ASPP(
            backbone.deepest.channels, channels, atrous_rates, image_pooling=image_pooling, dropout=dropout, conv=conv
        )
        self.head_conv = conv(channels, channels) if head_conv else nn.Identity()
        self.classifier = nn.Conv2d(channels, num_classes, 1)
        for part in (self.head_conv, self.classifier):
            he_init(part)

    def decode(self, features: dict[str, Tensor], size: tuple[int, int]) -> Tensor:
        x = self.head_conv(self.aspp(features[self.backbone.deepest.name]))
        logits: Tensor = self.classifier(x)
        return logits
