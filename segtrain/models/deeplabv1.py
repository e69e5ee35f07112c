"""DeepLab v1: dense features by atrous convolution, one 1x1 classifier."""

import torch
from torch import Tensor, nn

from segtrain.backbones.base import Backbone
from segtrain.models.base import SegmentationModel
from segtrain.nn.conv import ConvNormAct, ScoreConv2d
from segtrain.nn.init import he_init
from segtrain.nn.resize import resize_to


class DeepLabV1(SegmentationModel):
    """A backbone held at stride 8 and a 1x1 classifier on its deepest feature; its logits are resized bilinearly.

    With `vgg16_largefov` it is DeepLab-LargeFOV. The classifier starts from N(0, 0.01^2), as in the released network.

    Args:
        multi_scale_features: DeepLab-MSc: the image and the four shallowest features (in VGG-16, the maps after the
            first four poolings) pass through two layers each, 128 channels, and are concatenated to the deepest
            feature: sharper boundaries, for 640 channels more. These layers start from `he_init`.

    Source: Chen et al. 2015, arXiv:1412.7062, sections 3 (atrous convolution), 4.3 (multi-scale prediction) and 5
    (LargeFOV, Table 2).
    """

    def __init__(self, backbone: Backbone, num_classes: int, multi_scale_features: bool) -> None:
        super().__init__(backbone, num_classes)
        deepest = backbone.deepest
        self.finer = nn.ModuleDict()
        if multi_scale_features:
            self.finer["image"] = FinerBranch(backbone.in_channels, deepest.stride)
            for feature in backbone.features[:-1][:4]:
                self.finer[feature.name] = FinerBranch(feature.channels, max(1, deepest.stride // feature.stride))
            he_init(self.finer)
        self.classifier = ScoreConv2d(deepest.channels + FinerBranch.channels * len(self.finer), num_classes, 1)
        he_init(self.classifier)
        nn.init.normal_(self.classifier.weight, std=0.01)

    def encode(self, images: Tensor) -> dict[str, Tensor]:
        return super().encode(images) | {"image": images}

    def decode(self, features: dict[str, Tensor], size: tuple[int, int]) -> Tensor:
        deepest = features[self.backbone.deepest.name]
        finer = [resize_to(branch(features[name]), deepest) for name, branch in self.finer.items()]
        logits: Tensor = self.classifier(torch.cat([deepest, *finer], dim=1))
        return logits


class FinerBranch(nn.Sequential):
    """3x3 convolution, ReLU, 1x1 convolution, ReLU, 128 channels: a shallow map for the classifier to look at.

    [N, in_channels, h, w] -> [N, 128, ceil(h / stride), ceil(w / stride)]. How the maps come to the size of the deepest
    one, the paper leaves open; here the 3x3 convolution has the stride that is missing.
    """

    channels = 128

    def __init__(self, in_channels: int, stride: int) -> None:
        super().__init__(
            ConvNormAct(in_channels, self.channels, 3, stride=stride, batch_norm=False),
            ConvNormAct(self.channels, self.channels, 1, batch_norm=False),
        )
