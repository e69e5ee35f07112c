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

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

Spans = NDArray[np.int32]

# Spans that no number of pixels describes. A larger one swallows a smaller one.
UNKNOWN = 2**27  # behind an operation that no rule is written for
ADAPTIVE = 2**28  # the network reads where it has learned to: deformable convolution
WHOLE = 2**29  # every pixel, however large the image
NOTHING = -(2**30)  # a value that depends on no pixel, such as zero padding


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


def pad(spans: Spans, dim: int, before: int, after: int) -> Spans:
    """With positions added at both ends that see nothing; a negative number takes some away."""
    if spans.shape[1 + dim] == 1:
        return spans
    padding = constant(NOTHING, spans.ndim - 1)
    padding[2] = 1
    parts = [(padding, max(0, before)), (spans, spans.shape[1 + dim]), (padding, max(0, after))]
    padded = join([part for part, length in parts if length], dim, [length for _, length in parts if length])
    return _cut(padded, dim, max(0, -before), padded.shape[1 + dim] - max(0, -after))


def windows(
    spans: Spans, dim: int, length: int, kernel: int, stride: int = 1, padding: int = 0, dilation: int = 1
) -> Spans:
    """Of `length` windows along `dim`: convolution and pooling, whose arguments these are."""
    if spans.shape[1 + dim] == 1:
        return spans
    reach = (length - 1) * stride + 1
    missing = reach + dilation * (kernel - 1) - padding - spans.shape[1 + dim]
    padded = pad(spans, dim, padding, max(0, missing))
    taps = [_cut(padded, dim, start, start + reach, stride) for start in range(0, dilation * kernel, dilation)]
    return unite(taps, spans.ndim - 1)


def transposed_windows(
    spans: Spans, dim: int, length: int, kernel: int, stride: int, padding: int, dilation: int
) -> Spans:
    """Of a transposed convolution: a plain one of stride 1 over positions `stride` apart, with zeros between."""
    size = spans.shape[1 + dim]
    if size == 1:
        return spans
    shape = list(spans.shape)
    shape[1 + dim] = (size - 1) * stride + 1
    spread = np.broadcast_to(constant(NOTHING, len(shape) - 1), shape).copy()
    _cut(spread, dim, 0, shape[1 + dim], stride)[...] = spans
    return windows(spread, dim, length, kernel, padding=dilation * (kernel - 1) - padding, dilation=dilation)


def pick(spans: Spans, dim: int, positions: NDArray[np.integer]) -> Spans:
    """At `positions` along `dim`."""
    return spans if spans.shape[1 + dim] == 1 else spans.take(positions, axis=1 + dim)


def interpolate(spans: Spans, dim: int, sources: NDArray[np.floating]) -> Spans:
    """Of linear interpolation at the fractional positions `sources`: the one or two neighbours that have weight."""
    lower = np.floor(sources + 1e-5)  # torch computes positions in single precision
    upper = lower + (sources - lower > 1e-5)
    last = spans.shape[1 + dim] - 1
    ends = [pick(spans, dim, np.clip(end, 0, last).astype(np.int64)) for end in (lower, upper)]
    return unite(ends, spans.ndim - 1)


def regroup(spans: Spans, before: Sequence[int], after: Sequence[int]) -> Spans:
    """Of a tensor of shape `before` viewed as one of shape `after`.

    Dims that merge or split do so in groups of equal size: (H, W, C) -> (H * W, C) merges two and leaves one. Only
    groups along which spans differ are written out.
    """
    expanded, shape = [3], [3]
    for old, new in _groups(before, after):
        differ = any(spans.shape[1 + dim] > 1 for dim in old)
        expanded += [before[dim] if differ else 1 for dim in old]
        shape += [after[dim] if differ else 1 for dim in new]
    return _narrow(np.broadcast_to(spans, expanded).reshape(shape))


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


def _cut(spans: Spans, dim: int, start: int, stop: int, step: int = 1) -> Spans:
    index = [slice(None)] * spans.ndim
    index[1 + dim] = slice(start, stop, step)
    return spans[tuple(index)]


def _groups(before: Sequence[int], after: Sequence[int]) -> Iterator[tuple[list[int], list[int]]]:
    """The smallest runs of dims, old and new, that hold the same number of values."""
    at = to = 0
    while at < len(before) or to < len(after):
        old: list[int] = []
        new: list[int] = []
        sizes = [1, 1]
        while not (old or new) or sizes[0] != sizes[1]:
            if to == len(after) or (at < len(before) and sizes[0] <= sizes[1]):
                old.append(at)
                sizes[0] *= before[at]
                at += 1
            else:
                new.append(to)
                sizes[1] *= after[to]
                to += 1
        yield old, new


def _narrow(spans: Spans) -> Spans:
    """With length 1 along the dims on which nothing depends, which splitting a merged dim gives back."""
    for axis in range(1, spans.ndim):
        if spans.shape[axis] > 1 and (spans == spans.take([0], axis=axis)).all():
            spans = spans.take([0], axis=axis)
    return spans
