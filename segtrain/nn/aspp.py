"""Atrous spatial pyramid pooling (ASPP): one map read at several distances at once."""

from collections import OrderedDict
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from segtrain.errors import ConfigError
from segtrain.nn.checks import check_positive, check_share
from segtrain.nn.conv import ConvNormAct, ScoreConv2d
from segtrain.nn.init import he_init


class SummedASPP(nn.Module):
    """DeepLab v2's: parallel classifiers of different rates, their logits summed.

    [N, in_channels, h, w] -> [N, num_classes, h, w].

    Args:
        atrous_rates: distance between the taps of each branch's 3x3 convolution, in pixels of the map.
        branch_channels: see `AtrousClassifier`.
        dropout: likewise.

    Raises:
        ConfigError: a number is out of its range; `dropout` without `branch_channels`.

    Source: Chen et al. 2017, arXiv:1606.00915, section 3.2, Figures 4 and 7.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        atrous_rates: Sequence[int],
        branch_channels: int | None,
        dropout: float,
    ) -> None:
        super().__init__()
        _check(atrous_rates, dropout)
        if branch_channels is not None:
            check_positive("model.branch_channels", branch_channels)
        elif dropout:
            raise ConfigError(
                f"model.dropout={dropout}: belongs to fc6 and fc7, which model.branch_channels=null leaves out; set it "
                "to 0"
            )
        self.branches = nn.ModuleList(
            AtrousClassifier(in_channels, num_classes, rate, branch_channels, dropout) for rate in atrous_rates
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([branch(x) for branch in self.branches]).sum(dim=0)


class AtrousClassifier(nn.Sequential):
    """One branch of `SummedASPP`.

    With `branch_channels`, as over VGG: `fc6` (3x3 of the rate) and `fc7` (1x1), each with ReLU and dropout, then
    `classifier` (1x1). With None, as over ResNet, a 3x3 `classifier` of the rate alone. It starts from N(0, 0.01^2),
    as in the released networks; what is below, from `he_init`.

    Args:
        rate: in pixels of the map.
        branch_channels: of `fc6` and `fc7`, the paper's are 1024.
        dropout: in [0, 1), after `fc6` and after `fc7`; 0 without them.
    """

    def __init__(
        self, in_channels: int, num_classes: int, rate: int, branch_channels: int | None, dropout: float
    ) -> None:
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        if branch_channels is None:
            classifier: nn.Conv2d = ScoreConv2d(in_channels, num_classes, 3, padding=rate, dilation=rate)
        else:
            layers["fc6"] = ConvNormAct(in_channels, branch_channels, dilation=rate, batch_norm=False)
            layers["dropout6"] = nn.Dropout(dropout)
            layers["fc7"] = ConvNormAct(branch_channels, branch_channels, 1, batch_norm=False)
            layers["dropout7"] = nn.Dropout(dropout)
            classifier = ScoreConv2d(branch_channels, num_classes, 1)
        super().__init__(layers | {"classifier": classifier})
        he_init(self)
        nn.init.normal_(classifier.weight, std=0.01)


class ASPP(nn.Module):
    """DeepLab v3's: branches with BatchNorm, concatenated and projected.

    [N, in_channels, h, w] -> [N, out_channels, h, w]. The branches are a 1x1 convolution, a 3x3 of each rate and, with
    `image_pooling`, the mean over the whole map: at a rate near the map's size only the middle tap of a 3x3 still lies
    inside, and the global mean gives back what is lost. Then `project`, 1x1, and dropout. Initialised by `he_init`.

    Args:
        atrous_rates: in pixels of the map.
        image_pooling: the last branch.
        dropout: in [0, 1).
        conv: makes a 3x3 convolution with norm and activation: conv(in_channels, out_channels, dilation=rate);
            `ConvNormAct`, or `SeparableConvNormAct` in DeepLab v3+.

    Raises:
        ConfigError: a number is out of its range.

    Source: Chen et al. 2017, arXiv:1706.05587, section 3.3 and Figure 5; separable: Chen et al. 2018, arXiv:1802.02611.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        atrous_rates: Sequence[int],
        *,
        image_pooling: bool,
        dropout: float,
        conv: Callable[..., nn.Module],
    ) -> None:
        super().__init__()
        _check(atrous_rates, dropout)
        check_positive("model.channels", out_channels)
        branches = [
            ConvNormAct(in_channels, out_channels, 1, batch_norm=True),
            *(conv(in_channels, out_channels, dilation=rate) for rate in atrous_rates),
        ]
        if image_pooling:
            branches.append(ImagePooling(in_channels, out_channels))
        self.branches = nn.ModuleList(branches)
        self.project = ConvNormAct(len(branches) * out_channels, out_channels, 1, batch_norm=True)
        self.dropout = nn.Dropout(dropout)
        he_init(self)

    def forward(self, x: Tensor) -> Tensor:
        projected: Tensor = self.project(torch.cat([branch(x) for branch in self.branches], dim=1))
        return self.dropout(projected)


class ImagePooling(ConvNormAct):
    """The mean over the map, 1x1 convolution, BatchNorm, ReLU, the same at every pixel: the image as a whole.

    [N, in_channels, h, w] -> [N, out_channels, h, w]. In training the BatchNorm sees one value per image and channel;
    for a batch of one there is nothing to normalise by, and it uses its running statistics (`BatchNorm2d`).

    Source: Liu et al. 2015 (ParseNet), arXiv:1506.04579; Chen et al. 2017, arXiv:1706.05587, section 3.3.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, 1, batch_norm=True)

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.mean(dim=(2, 3), keepdim=True)).expand(-1, -1, *input.shape[-2:])


def _check(atrous_rates: Sequence[int], dropout: float) -> None:
    if min(atrous_rates, default=0) < 1:
        raise ConfigError(f"model.atrous_rates={list(atrous_rates)}: give one or more positive numbers")
    check_share("model.dropout", dropout)
