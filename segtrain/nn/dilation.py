"""Trading stride for dilation: the same weights, the same field of view, a finer feature map."""

from torch import nn


def stride_to_dilation(stage: nn.Module, dilation: int = 1) -> int:
    """Takes the stride out of every convolution in `stage` and dilates those that follow it instead, in place.

    The convolution that loses its stride keeps the dilation before it, since what it reads has not changed; the later
    ones read a map that is now denser, and spread their taps by the stride that was lost (the a-trous algorithm).
    Weights, parameter names and, at the pixels the strided network would have computed, values stay the same.

    Args:
        stage: its convolutions are registered in the order in which they run (as torchvision's residual stages are),
            padded to keep the size, and lie on paths that lose the same stride (a shortcut comes last).
        dilation: of the map that `stage` reads: 1, or what this function returned for the stage before.

    Returns: the dilation of the map that `stage` now gives.

    Source: Chen et al. 2018 (DeepLab), arXiv:1606.00915, section 3.1.
    """
    before = after = dilation
    for conv in stage.modules():
        if not isinstance(conv, nn.Conv2d):
            continue
        if conv.stride == (1, 1):
            _dilate(conv, after)
        else:
            after = before * conv.stride[0]
            conv.stride = (1, 1)
            _dilate(conv, before)
    return after


def _dilate(conv: nn.Conv2d, dilation: int) -> None:
    if conv.kernel_size == (1, 1):
        return  # one tap has nothing to spread, and torch runs a 1x1 convolution marked as dilated by slower code
    height, width = conv.kernel_size
    conv.dilation = (dilation, dilation)
    conv.padding = (dilation * (height // 2), dilation * (width // 2))
