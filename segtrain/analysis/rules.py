"""What each of torch's operations does to the spans of the tensors it reads, along one axis of the image.

A rule gets a `Call` and returns the spans of its result, or a list where there are several results with spans each.
There are rules for what segtrain's own models and timm's common networks call. Pointwise operations, which torch marks
as such, need none.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from segtrain.analysis import spans as along
from segtrain.analysis.spans import ADAPTIVE, HOLE, NOTHING, WHOLE, Spans


@dataclass(frozen=True)
class Call:
    """One operation, as it was called.

    Attributes:
        name: as in torch's schema, `aten::` left out.
        args: by name, defaults filled in.
        out: what it returned.
        spans_of: those of a tensor's values; None of one that depends on no pixel.
    """

    name: str
    args: dict[str, Any]
    out: Any
    spans_of: Callable[[Tensor], Spans | None]

    def spans(self, of: str | Tensor = "self") -> Spans:
        """Of a tensor, or of the argument of this name."""
        x = self.args[of] if isinstance(of, str) else of
        spans = self.spans_of(x)
        return along.constant(NOTHING, x.ndim) if spans is None else spans

    def dims(self, name: str, x: Tensor) -> list[int]:
        """The argument called `name` as a list of dims of `x`, counted from 0; all of them where it says none."""
        given = self.args.get(name)
        dims = [given] if isinstance(given, int) else given or range(x.ndim)
        return [dim % x.ndim for dim in dims]


Positions = NDArray[np.integer]
Rule = Callable[[Call], Spans | list[Spans]]
RULES: dict[str, Rule] = {}


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Registers a rule for the operations of these names."""

    def register(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(names, function))
        return function

    return register


# Convolution and pooling


@rule("convolution")
def convolution(call: Call) -> Spans:
    args = call.args
    spans = _over_groups(call.spans("input"), args["groups"], call.out.shape[1])
    taps = _spread_windows if args["transposed"] else _windows
    windows = zip(args["weight"].shape[2:], args["stride"], args["padding"], args["dilation"], strict=True)
    for dim, window in enumerate(windows, start=2):
        spans = along.read(spans, dim, *taps(call.out.shape[dim], *window))
    return spans


def _windows(length: int, kernel: int, stride: int, padding: int, dilation: int) -> Positions:
    """[kernel, length]: where each tap of `length` windows reads."""
    return np.arange(length) * stride - padding + dilation * np.arange(kernel)[:, None]


def _spread_windows(length: int, kernel: int, stride: int, padding: int, dilation: int) -> Positions:
    """Likewise of a transposed convolution: a plain one over positions `stride` apart, with zeros between."""
    sources = np.arange(length) + padding - dilation * np.arange(kernel)[:, None]
    return np.where(sources % stride, HOLE, sources // stride)


def _over_groups(spans: Spans, groups: int, out_channels: int) -> Spans:
    """Spans that differ between channels (after a concatenation), as the convolution's groups mix them."""
    channels = spans.shape[2]
    if channels == 1:
        return spans
    by_group = spans.reshape(3, spans.shape[1], groups, channels // groups, *spans.shape[3:]).max(axis=3)
    return by_group if groups == 1 else by_group.repeat(out_channels // groups, axis=2)


@rule("deform_conv2d")
def deform_conv2d(call: Call) -> Spans:
    """Not even the offsets' own field bounds what is read; only the whole image is more."""
    read = [call.spans(name).max(axis=(1, 2, 3, 4), keepdims=True) for name in ("input", "offset")]
    return along.unite([along.constant(ADAPTIVE, 4), *read], 4)


@rule("max_pool2d_with_indices", "avg_pool2d")
def pool2d(call: Call) -> Spans:
    args, spans = call.args, call.spans()
    values = call.out[0] if isinstance(call.out, tuple) else call.out
    kernel, dilation = args["kernel_size"], args.get("dilation", [1, 1])
    windows = zip(kernel, args["stride"] or kernel, args["padding"], dilation, strict=True)
    for dim, window in enumerate(windows, start=values.ndim - 2):
        spans = along.read(spans, dim, *_windows(values.shape[dim], *window))
    return spans


@rule("_adaptive_avg_pool2d", "adaptive_max_pool2d")
def adaptive_pool2d(call: Call) -> Spans:
    """To a grid of so many cells: each reads a share of the image, which grows with it, and so counts as the whole."""
    return along.constant(WHOLE, 4)


# Sizes


@rule("upsample_nearest2d", "upsample_bilinear2d")
def upsample(call: Call) -> Spans:
    spans = call.spans()
    for dim, scale in ((2, call.args["scales_h"]), (3, call.args["scales_w"])):
        before, after = call.args["self"].shape[dim], call.out.shape[dim]
        step, positions = 1 / scale if scale else before / after, np.arange(after)
        if call.name == "upsample_nearest2d":
            sources = np.floor(positions * step + 1e-6)
        elif call.args["align_corners"]:
            sources = positions * (before - 1) / max(1, after - 1)
        else:
            sources = np.maximum((positions + 0.5) * step - 0.5, 0)
        lower = np.floor(sources + 1e-5)  # torch computes positions in single precision
        upper = lower + (sources - lower > 1e-5)
        spans = along.read(spans, dim, *np.minimum([lower, upper], before - 1).astype(int))
    return spans


@rule("constant_pad_nd", "replication_pad2d")
def pad(call: Call) -> Spans:
    spans = call.spans()
    pads = call.args["pad" if call.name == "constant_pad_nd" else "padding"]
    for number, (before, after) in enumerate(zip(pads[::2], pads[1::2], strict=True), 1):
        dim = call.out.ndim - number  # from the last dim on
        length = call.args["self"].shape[dim]
        positions = np.arange(-before, length + after)
        spans = along.read(spans, dim, positions if call.name == "constant_pad_nd" else positions.clip(0, length - 1))
    return spans


# Sums


@rule("mean", "sum", "amax", "linalg_vector_norm", "_softmax", "_safe_softmax")
def reduction(call: Call) -> Spans:
    x = call.args["self"]
    dims = call.dims("dim", x)
    spans = along.over(call.spans(), dims)
    return spans if call.out.ndim == x.ndim else spans.squeeze(tuple(1 + dim for dim in dims))


@rule("native_batch_norm", "native_group_norm", "native_layer_norm")
def norm(call: Call) -> Spans:
    """Over what mean and variance are of; in BatchNorm by running statistics, that is nothing."""
    spans, ndim = call.spans("input"), call.out[0].ndim
    if call.name == "native_batch_norm":
        return along.over(spans, [0, *range(2, ndim)]) if call.args["training"] else spans
    first = 1 if call.name == "native_group_norm" else ndim - len(call.args["normalized_shape"])
    return along.over(spans, range(first, ndim))


@rule("mm", "bmm", "addmm")
def matmul(call: Call) -> Spans:
    """[..., n, k] times [..., k, m]. Where values meet values, this is attention: each reads all of its window."""
    left, right = call.args["mat1" if call.name == "addmm" else "self"], call.args["mat2"]
    rows, columns = call.out.ndim - 2, call.out.ndim - 1
    is_attention = call.spans_of(left) is not None and call.spans_of(right) is not None
    terms = [
        along.over(call.spans(x), [rows, columns] if is_attention else [summed])
        for x, summed in ((left, columns), (right, rows))
    ]
    if call.name == "addmm":
        terms.append(call.spans())
    return along.unite(terms, call.out.ndim)


# Moving values about


@rule("view", "_unsafe_view")
def view(call: Call) -> Spans:
    return along.regroup(call.spans(), call.args["self"].shape, call.out.shape)


@rule("permute")
def permute(call: Call) -> Spans:
    return call.spans().transpose(0, *(1 + dim for dim in call.dims("dims", call.out)))


@rule("transpose")
def transpose(call: Call) -> Spans:
    return call.spans().swapaxes(*(1 + call.args[name] % call.out.ndim for name in ("dim0", "dim1")))


@rule("expand")
def expand(call: Call) -> Spans:
    return along.unite([call.spans()], call.out.ndim)


@rule("slice")
def slice_(call: Call) -> Spans:
    [dim] = call.dims("dim", call.out)
    positions = np.arange(call.args["self"].shape[dim])[call.args["start"] : call.args["end"] : call.args["step"]]
    return along.read(call.spans(), dim, positions)


@rule("unbind")
def unbind(call: Call) -> list[Spans]:
    [dim] = call.dims("dim", call.args["self"])
    return [along.read(call.spans(), dim, np.array([at])).squeeze(1 + dim) for at in range(len(call.out))]


@rule("split")
def split(call: Call) -> list[Spans]:
    [dim] = call.dims("dim", call.args["self"])
    parts = np.split(np.arange(call.args["self"].shape[dim]), np.cumsum([x.shape[dim] for x in call.out])[:-1])
    return [along.read(call.spans(), dim, positions) for positions in parts]


@rule("cat", "stack")
def join(call: Call) -> Spans:
    tensors: Sequence[Tensor] = call.args["tensors"]
    [dim] = call.dims("dim", call.out)
    if call.name == "cat":
        return along.join([call.spans(x) for x in tensors], dim, [x.shape[dim] for x in tensors])
    return along.join([np.expand_dims(call.spans(x), 1 + dim) for x in tensors], dim, [1] * len(tensors))


@rule("roll")
def roll(call: Call) -> Spans:
    return np.roll(call.spans(), call.args["shifts"], [1 + dim for dim in call.dims("dims", call.out)])
