"""Resizing feature maps and logits to the size of something else, never by a factor."""

from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from segtrain.nn.anysize import is_size_free


def resize_to(
    x: Tensor,
    size_of: Tensor | tuple[int, int],
    mode: Literal["bilinear", "nearest"] = "bilinear",
    align_corners: bool = False,
) -> Tensor:
    """`x` at the height and width of `size_of`; `x` itself where it has that size already.

    Args:
        x: [N, C, h, w].
        size_of: a tensor [..., H, W], or (H, W).
        mode: bilinear interpolates between pixel centres.
        align_corners: bilinear only: the outermost pixel centres fall on each other, instead of the maps' borders.

    Returns: [N, C, H, W], in the memory format of `x`.
    """
    height, width = size_of.shape[-2:] if isinstance(size_of, Tensor) else size_of
    if not is_size_free() and x.shape[-2:] == (height, width):
        return x
    return F.interpolate(
        x, size=(height, width), mode=mode, align_corners=align_corners if mode == "bilinear" else None
    )
