"""What every segmentation model is."""

from torch import Tensor, nn

from segtrain.backbones.base import Backbone
from segtrain.types import ModelOutput


class SegmentationModel(nn.Module):
    """Images become logits at their own resolution.

        forward(images: [N, backbone.in_channels, H, W] float) -> ModelOutput(logits [N, num_classes, H, W], aux)

    for any H and W, odd ones included, and for a batch of one, in training as in evaluation. Auxiliary logits are
    there in training only.

    Attributes:
        backbone: everything pretrained; what is not under `backbone.` is new and may learn faster.
        num_classes: C of the logits.
    """

    def __init__(self, backbone: Backbone, num_classes: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.num_classes = num_classes

    def forward(self, images: Tensor) -> ModelOutput:
        raise NotImplementedError
