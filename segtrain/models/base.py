"""What every segmentation model is."""

from typing import Self

from torch import Tensor, nn

from segtrain.backbones.base import Backbone
from segtrain.models.auxiliary import AuxiliaryHead
from segtrain.nn.resize import resize_to
from segtrain.types import Feature, ModelOutput


class SegmentationModel(nn.Module):
    """Images become logits at their own resolution.

        forward(images: [N, backbone.in_channels, H, W] float) -> ModelOutput(logits [N, num_classes, H, W], aux)

    for any H and W, odd ones included, and for a batch of one, in training as in evaluation. A subclass writes
    `decode`; auxiliary heads are added by `add_auxiliary` and give their logits in training only.

    Attributes:
        backbone: everything pretrained; what is not under `backbone.` is new and may learn faster.
        num_classes: C of the logits.
        auxiliary: heads by name; empty in a model that is only evaluated.
        aux_weights: what the loss of each auxiliary output counts.
        decoder_features: what auxiliary heads can read besides the backbone's features; empty where `decode` hands out
            nothing.
        frozen: parts that stay in evaluation mode while the model trains.
        align_corners_at_end: how the last upsampling, from what `decode` gives to the images' size, places pixels.
    """

    def __init__(self, backbone: Backbone, num_classes: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.num_classes = num_classes
        self.auxiliary = nn.ModuleDict()
        self.aux_weights: dict[str, float] = {}
        self.decoder_features: tuple[Feature, ...] = ()
        self.frozen: tuple[nn.Module, ...] = ()
        self.align_corners_at_end = False

    def encode(self, images: Tensor) -> dict[str, Tensor]:
        """What `decode` reads: the backbone's features; a model that looks at more adds it here by another name."""
        features: dict[str, Tensor] = self.backbone(images)
        return features

    def decode(self, features: dict[str, Tensor], size: tuple[int, int]) -> Tensor:
        """The backbone's features become logits.

        Args:
            features: what `encode` gave for images of `size`. Of its `decoder_features`, a model adds those that
                `read_by_heads` names.
            size: height and width of the images.

        Returns: [N, num_classes, h, w] at any resolution; `forward` brings it to the images' (bilinear).
        """
        raise NotImplementedError

    def forward(self, images: Tensor, upsample: bool = True) -> ModelOutput:
        """The logits, and in training those of the auxiliary heads.

        Args:
            images: [N, backbone.in_channels, H, W] float.
            upsample: False: the logits as `decode` gave them, for a caller that brings them to the images' size itself.
        """
        height, width = images.shape[-2:]
        features = self.encode(images)
        logits = self.decode(features, (height, width))
        if upsample:
            logits = resize_to(logits, (height, width), align_corners=self.align_corners_at_end)
        aux = {}
        if self.training:
            aux = {name: resize_to(head(features[head.feature]), (height, width)) for name, head in self._heads()}
        return ModelOutput(logits, aux)

    def add_auxiliary(self, name: str, head: AuxiliaryHead, weight: float) -> None:
        """`head` gives the logits `aux[name]` from now on, whose loss counts `weight`."""
        self.auxiliary[name] = head
        self.aux_weights[name] = weight

    def read_by_heads(self) -> set[str]:
        """Names of the features that auxiliary heads will read in this forward pass; none in evaluation."""
        return {head.feature for _, head in self._heads()} if self.training else set()

    def _heads(self) -> list[tuple[str, AuxiliaryHead]]:
        return [(name, head) for name, head in self.auxiliary.items() if isinstance(head, AuxiliaryHead)]

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        for part in self.frozen:
            part.eval()
        return self
