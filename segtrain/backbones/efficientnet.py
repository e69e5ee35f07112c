"""EfficientNet and EfficientNetV2, as torchvision builds them."""

from typing import Literal

from torchvision.models import get_model, get_model_weights

from segtrain.backbones.mobilenet import InvertedResidualNet
from segtrain.nn.checks import check_share

EfficientNetName = Literal[
    "efficientnet_b0",
    "efficientnet_b1",
    "efficientnet_b2",
    "efficientnet_b3",
    "efficientnet_b4",
    "efficientnet_b5",
    "efficientnet_b6",
    "efficientnet_b7",
    "efficientnet_v2_s",
    "efficientnet_v2_m",
    "efficientnet_v2_l",
]


class EfficientNet(InvertedResidualNet):
    """EfficientNet-B0 to B7 and V2-S, M, L: inverted residual blocks with squeeze-and-excitation, scaled as one.

    Compound scaling: a network for 2^phi times the work has alpha^phi times the layers and beta^phi times the channels,
    and takes images gamma^phi times as large. Work grows with depth, and with the square of width and of resolution,
    hence alpha * beta^2 * gamma^2 ~ 2; a search on the smallest network gave alpha = 1.2, beta = 1.1, gamma = 1.15
    (section 3.3, eq. 3). B1 to B7 are B0 with phi about 0.5, 1, 2, ... 6, rounded. V2 fuses the expansion and depthwise
    convolutions of its first stages into plain 3x3 ones (more multiplications, of the kind that hardware does fast).

    Features: `stem`, and the last stage of each stride, numbered as the papers do. V1 counts the stem as stage 1:
    `stage2` (stride 2), `stage3` (4), `stage4` (8), `stage6` (16), `stage8` (32). V2 counts from 0: `stage1` (2),
    `stage2` (4), `stage3` (8), `stage5` (16), and `stage7` (32), in S `stage6`. The 1x1 convolution after them is left
    out: it quadruples the channels for a classifier that pools them away, and sees no more of the image.

    Args:
        stochastic_depth: probability of skipping a block in training, [0, 1): 0 for the first block, growing linearly
            to (almost) this for the last. A block that is not skipped counts 1 / (1 - probability) times.
        other arguments: as in `InvertedResidualNet`.

    Source: Tan and Le 2019, arXiv:1905.11946, Table 1; 2021 (V2), arXiv:2104.00298, Table 4; stochastic depth: Huang et
    al. 2016, arXiv:1603.09382. Weights: torchvision's IMAGENET1K_V1; V1's are ports of the papers' own.
    """

    def __init__(
        self,
        in_channels: int,
        name: EfficientNetName,
        weights: str | None,
        output_stride: Literal[8, 16, 32],
        dilate_strided: bool,
        stochastic_depth: float,
    ) -> None:
        check_share("model.backbone.stochastic_depth", stochastic_depth)
        net = get_model(name, weights=None, stochastic_depth_prob=stochastic_depth)
        if name.startswith("efficientnet_v2"):
            last = len(net.features) - 2
            taps = {0: "stem"} | {i: f"stage{i}" for i in (1, 2, 3, 5, last)}
        else:
            taps = {0: "stem"} | {i: f"stage{i + 1}" for i in (1, 2, 3, 5, 7)}
        url = get_model_weights(name)["IMAGENET1K_V1"].url
        super().__init__(in_channels, net, taps, weights, url, output_stride, dilate_strided)
