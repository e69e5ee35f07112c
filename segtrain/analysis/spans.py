"""Which pixels of the image a value depends on, position by position: the arithmetic along one axis of the image.

The span of a value is the smallest interval of pixels, from first to last, that holds all it depends on. Convolution,
pooling and resizing treat rows and columns alike and apart, so that two spans, one along each axis, make the rectangle
that is the value's receptive field. `Spans` holds those of a whole tensor, as an array

    [3, *dims]    [0]: minus the first pixel, [1]: the last, [2]: whether padding stood in for pixels of a larger image

whose dims broadcast to the tensor's shape: of a feature map [N, C, H, W], the spans along the image's rows are a
[3, 1, 1, H, 1]. With the sign so, the span that holds several others is their maximum.

Every position has a span of its own. For layers in a row, Araujo et al. 2019 (Computing Receptive Fields of
Convolutional Neural Networks, Distill, doi:10.23915/distill.00021) give a recurrence over kernel sizes, strides and
paddings; the same, taken position by position, is a maximum over the positions under the kernel. It holds for any
graph, at the image's borders, and where maps are resized by fractions.
"""

from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate
from operator import mul

import numpy as np
from numpy.typing import NDArray

Spans = NDArray[np.int32]

# Spans that no number of pixels describes. A larger one swallows a smaller one.
UNKNOWN = 2**27  # behind an operation that no rule is written for
ADAPTIVE = 2**28  # the network reads where it has learned to: deformable convolution
WHOLE = 2**29  # every pixel, however large the image
NOTHING = -(2**30)  # a value that depends on no pixel, such as zero padding

HOLE = 2**30  # the position of a zero between a tensor's positions, where those are spread out


def pixels(size: int, dim: int, ndim: int) -> Spans:
    """The image's own: each of the `size` positions along `dim` sees itself."""
    own = np.arange(size, dtype=np.int32)
    return np.stack([-own, own, 0 * own]).reshape(3, *(size if axis == dim else 1 for axis in range(ndim)))


def constant(level: int, ndim: int) -> Spans:
    """The same of `UNKNOWN` ... `NOTHING` everywhere."""
    return np.array([level, level, 0], dtype=np.int32).reshape(3, *[1] * ndim)


def unite(spans: Sequence[Spans], ndim: int) -> Spans:
    """Of a value computed from others at the same position; the others broadcast to `ndim` dims, as tensors do."""
    aligned = [one.reshape(3, *[1] * (ndim + 1 - one.ndim), *one.shape[1:]) for one in spans]
    united = aligned[0]
    for one in aligned[1:]:
        if one is not united:
            united = np.maximum(united, one)
    return united


def over(spans: Spans, dims: Sequence[int]) -> Spans:
    """Of a value computed from all positions along `dims`, which keep length 1.

    A sum over windows of a fixed size leaves the windows, each with a span of its own. Where nothing is left, the sum
    was over all there is, and would be of an image of any size: the span is the whole image.
    """
    united = spans.max(axis=tuple(1 + dim for dim in dims), keepdims=True)
    return constant(WHOLE, spans.ndim - 1) if united.size == 3 < spans.size else united


def read(spans: Spans, dim: int, *positions: NDArray[np.integer]) -> Spans:
    """Of values computed from one or several positions along `dim` each.

    Args:
        positions: [length] each. Those below 0, or behind the last, are padding, which sees nothing; `HOLE` does not
            either, and stands for no pixels.
    """
    axis, size = 1 + dim, spans.shape[1 + dim]
    if size == 1:
        return spans
    zeros = np.full_like(spans.take([0, 0], axis), NOTHING)
    zeros[2] = 0
    zeros.swapaxes(1, axis)[2, 0] = 1
    at = np.stack(positions)
    index = np.where(at == HOLE, size + 1, np.where((at < 0) | (at >= size), size, at))
    values = np.concatenate([spans, zeros], axis).take(index, axis)
    return values.max(axis)


def regroup(spans: Spans, before: Sequence[int], after: Sequence[int]) -> Spans:
    """Of a tensor of shape `before` viewed as one of shape `after`.

    Dims that merge or split do so in groups of equal size: (H, W, C) -> (H * W, C) merges two and leaves one. Only
    groups along which spans differ are written out.
    """
    ends, new_ends = [*accumulate(before, mul)], [*accumulate(after, mul)]
    cuts = sorted({*ends} & {*new_ends})
    groups, new_groups = ([bisect_left(cuts, end) for end in which] for which in (ends, new_ends))
    differ = {group for group, length in zip(groups, spans.shape[1:], strict=True) if length > 1}
    expanded = [length if group in differ else 1 for group, length in zip(groups, before, strict=True)]
    shape = [length if group in differ else 1 for group, length in zip(new_groups, after, strict=True)]
    return _narrow(np.broadcast_to(spans, [3, *expanded]).reshape([3, *shape]))


def join(spans: Sequence[Spans], dim: int, lengths: Sequence[int]) -> Spans:
    """Of tensors put after each other along `dim`, `lengths` of them each."""
    if spans[0].shape[1 + dim] == 1 and all(one is spans[0] or np.array_equal(one, spans[0]) for one in spans):
        return spans[0]
    common = list(np.broadcast_shapes(*(np.delete(one.shape, 1 + dim) for one in spans)))
    parts = [
        np.broadcast_to(one, [*common[: 1 + dim], length, *common[1 + dim :]])
        for one, length in zip(spans, lengths, strict=True)
    ]
    return np.concatenate(parts, axis=1 + dim)


def _narrow(spans: Spans) -> Spans:
    """With length 1 along the dims on which nothing depends, which splitting a merged dim gives back."""
    for axis in range(1, spans.ndim):
        if spans.shape[axis] > 1 and (spans == spans.take([0], axis=axis)).all():
            spans = spans.take([0], axis=axis)
    return spans
