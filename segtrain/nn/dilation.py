"""Trading stride for dilation: the same weights, the same field of view, a finer feature map."""

from collections.abc import Iterable, Sequence

from torch import nn

from segtrain.errors import ConfigError
from segtrain.nn.pooling import Pool2d


def stride_to_dilation(stage: nn.Module, dilation: int = 1, dilate_strided: bool = False) -> int:
    """Takes the stride out of every convolution and pooling in `stage` and dilates those that follow, in place.

    The layer that loses its stride keeps the dilation before it, since what it reads has not changed; the later ones
    read a map that is now denser, and spread their taps by the stride that was lost (the a-trous algorithm).
    Weights, parameter names and, at the pixels the strided network would have computed, values stay the same.

    Args:
        stage: its layers are registered in the order in which they run (as torchvision's residual stages are), padded
            to keep the size, and lie on paths that lose the same stride (a shortcut comes last). Its poolings are
            `nn.pooling`'s.
        dilation: of the map that `stage` reads: 1, or what this function returned for the stage before.
        dilate_strided: dilate the layer that loses its stride as well, as segmentation_models.pytorch does with
            convolutions everywhere, and torchvision in its MobileNetV3. The field of view grows; values change.

    Returns: the dilation of the map that `stage` now gives.

    Source: Chen et al. 2018 (DeepLab), arXiv:1606.00915, section 3.1.
    """
    before = after = dilation
    for layer in stage.modules():
        if isinstance(layer, Pool2d) and layer.stride == 1:
            layer.dilation = after
        elif isinstance(layer, Pool2d):
            after = before * layer.stride
            layer.stride, layer.dilation = 1, after if dilate_strided else before
        elif isinstance(layer, nn.Conv2d) and layer.stride == (1, 1):
            _dilate(layer, after)
        elif isinstance(layer, nn.Conv2d):
            after = before * layer.stride[0]
            layer.stride = (1, 1)
            _dilate(layer, after if dilate_strided else before)
    return after


def hold_output_stride(
    stages: Sequence[tuple[int, Iterable[nn.Module]]], output_stride: int, dilate_strided: bool = False
) -> None:
    """Applies `stride_to_dilation` to every stage that would lead below `output_stride`.

    Args:
        stages: shallow to deep: the stride that a stage's map has in the plain network, and its layers in the order in
            which they run.
        output_stride: of the deepest map; a power of two.

    Raises:
        ConfigError: the network does not reach `output_stride`, or it is none of 8, 16 and 32.
    """
    deepest = max(stride for stride, _ in stages)
    possible = [stride for stride in (8, 16, 32) if stride <= deepest]
    if output_stride not in possible:
        *others, last = map(str, possible)
        choice = f"{', '.join(others)} or {last}" if others else last
        raise ConfigError(f"model.backbone.output_stride={output_stride}: must be {choice}")
    dilation = 1
    for stride, layers in stages:
        if stride > output_stride:
            for layer in layers:
                dilation = stride_to_dilation(layer, dilation, dilate_strided)


def multi_grid(blocks: Sequence[nn.Module], grid: Sequence[int]) -> None:
    """Multiplies the dilation of all convolutions in each block by the block's number in `grid`, in place.

    Blocks of one stage that all look at the same distance leave gaps between their taps; unequal ones fill them.

    Args:
        blocks: of the last stage, in order.
        grid: a positive number for each block; DeepLab v3's best is 1, 2, 4.

    Raises:
        ConfigError: `grid` has another length than `blocks`, or a number below 1.

    Source: Chen et al. 2017, arXiv:1706.05587, section 3.2.1: a block's rate is its grid number times the stage's.
    """
    if len(grid) != len(blocks) or min(grid) < 1:
        raise ConfigError(
            f"model.backbone.multi_grid={list(grid)}: the last stage has {len(blocks)} blocks; give a positive number "
            "for each, or null"
        )
    for block, factor in zip(blocks, grid, strict=True):
        for layer in block.modules():
            if isinstance(layer, nn.Conv2d):
                _dilate(layer, layer.dilation[0] * factor)


def _dilate(conv: nn.Conv2d, dilation: int) -> None:
    if conv.kernel_size == (1, 1):
        return  # one tap has nothing to spread, and torch runs a 1x1 convolution marked as dilated by slower code
    height, width = conv.kernel_size
    conv.dilation = (dilation, dilation)
    conv.padding = (dilation * (height // 2), dilation * (width // 2))
