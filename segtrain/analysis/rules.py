"""What each of torch's operations does to the fields of the tensors it reads.

A rule gets a `Call` and returns the field of its result, or a list where there are several results with one each.
Pointwise operations, which torch marks as such, need none.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from torch import Tensor

from segtrain.analysis import spans as along
from segtrain.analysis.fields import Call, Field, constant, over, unite
from segtrain.analysis.spans import ADAPTIVE, WHOLE, Spans

Rule = Callable[[Call], Field | list[Field]]
RULES: dict[str, Rule] = {}


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Registers a rule for the operations of these names."""

    def register(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(names, function))
        return function

    return register


# Convolution and pooling


@rule("convolution", "mkldnn_convolution")
def convolution(call: Call) -> Field:
    args = call.args
    field = _over_groups(call.field("input"), args["groups"], call.out.shape[1])
    slide = along.transposed_windows if args.get("transposed") else along.windows
    return _slid(field, slide, call.out, args["weight"].shape[2:], args["stride"], args["padding"], args["dilation"])


def _slid(
    field: Field, slide: Callable[..., Spans], out: Tensor, kernel: Any, stride: Any, padding: Any, dilation: Any
) -> Field:
    """With `slide`, one of `along`'s kinds of window, over height and width; each number is one for both, or two."""
    for axis in (0, 1):
        dim = out.ndim - 2 + axis
        numbers = {
            name: value if isinstance(value, int) else value[axis % len(value)]
            for name, value in {"kernel": kernel, "stride": stride, "padding": padding, "dilation": dilation}.items()
        }
        field = field.map(partial(slide, dim=dim, length=out.shape[dim], **numbers))
    return field


def _over_groups(field: Field, groups: int, out_channels: int) -> Field:
    """Spans that differ between channels (after a concatenation), as the convolution's groups mix them."""

    def mixed(spans: Spans) -> Spans:
        channels = spans.shape[2]
        if channels == 1:
            return spans
        by_group = spans.reshape(3, spans.shape[1], groups, channels // groups, *spans.shape[3:]).max(axis=3)
        return by_group if groups == 1 else by_group.repeat(out_channels // groups, axis=2)

    return field.map(mixed)


@rule("deform_conv2d")
def deform_conv2d(call: Call) -> Field:
    """Not even the offsets' own field bounds what is read; only the whole image is more."""
    largest = [
        call.field(name).map(lambda spans: spans.max(axis=(1, 2, 3, 4), keepdims=True)) for name in ("input", "offset")
    ]
    return unite([constant(ADAPTIVE, 4), *largest], 4)


@rule("max_pool2d_with_indices", "avg_pool2d")
def pool2d(call: Call) -> Field:
    args = call.args
    values = call.out[0] if isinstance(call.out, tuple) else call.out
    kernel, stride = args["kernel_size"], args["stride"] or args["kernel_size"]
    return _slid(call.field("self"), along.windows, values, kernel, stride, args["padding"], args.get("dilation", 1))


@rule("_adaptive_avg_pool2d", "adaptive_max_pool2d")
def adaptive_pool2d(call: Call) -> Field:
    """To a grid of so many cells: each reads a share of the image, which grows with it, and so counts as the whole."""
    return constant(WHOLE, 4)


# Sizes


@rule("upsample_nearest2d")
def upsample_nearest2d(call: Call) -> Field:
    def resized(spans: Spans, dim: int) -> Spans:
        ratio, length = _ratio(call, dim)
        return along.pick(spans, dim, np.minimum(np.arange(length) * ratio + 1e-6, _length(call, dim) - 1).astype(int))

    return call.field("self").map(lambda spans: resized(resized(spans, 2), 3))


@rule("upsample_bilinear2d")
def upsample_bilinear2d(call: Call) -> Field:
    def resized(spans: Spans, dim: int) -> Spans:
        ratio, length = _ratio(call, dim)
        if call.args["align_corners"]:
            sources = np.arange(length) * (_length(call, dim) - 1) / max(1, length - 1)
        else:
            sources = np.maximum((np.arange(length) + 0.5) * ratio - 0.5, 0)
        return along.interpolate(spans, dim, sources)

    return call.field("self").map(lambda spans: resized(resized(spans, 2), 3))


def _ratio(call: Call, dim: int) -> tuple[float, int]:
    """Input positions to one output position, and the output's length."""
    scale, length = call.args["scales_h" if dim == 2 else "scales_w"], int(call.out.shape[dim])
    return (1 / scale if scale else _length(call, dim) / length), length


def _length(call: Call, dim: int) -> int:
    return int(call.args["self"].shape[dim])


@rule("constant_pad_nd")
def constant_pad(call: Call) -> Field:
    field, ndim, pads = call.field("self"), call.out.ndim, call.args["pad"]
    for number in range(len(pads) // 2):  # from the last dim on
        before, after = pads[2 * number], pads[2 * number + 1]
        field = field.map(partial(along.pad, dim=ndim - 1 - number, before=before, after=after))
    return field


@rule("replication_pad2d", "reflection_pad2d")
def copying_pad(call: Call) -> Field:
    left, right, top, bottom = call.args["padding"]
    mode: Any = "edge" if call.name == "replication_pad2d" else "reflect"
    field = call.field("self")
    for dim, before, after in ((call.out.ndim - 2, top, bottom), (call.out.ndim - 1, left, right)):
        positions = np.pad(np.arange(_length(call, dim)), (before, after), mode=mode)
        field = field.map(partial(along.pick, dim=dim, positions=positions))
    return field


# Sums


@rule("mean", "sum", "amax", "amin", "var", "std", "linalg_vector_norm")
def reduction(call: Call) -> Field:
    x = call.args["self"]
    dims = call.dims("dim", x) if "dim" in call.args else list(range(x.ndim))
    field = over(call.field("self"), dims)
    if call.out.ndim == x.ndim:
        return field
    return field.map(lambda spans: spans.squeeze(tuple(1 + dim for dim in dims)))


@rule("_softmax", "_log_softmax", "_safe_softmax")
def softmax(call: Call) -> Field:
    return over(call.field("self"), call.dims("dim", call.args["self"]))


@rule("native_batch_norm", "_native_batch_norm_legit_no_training", "cudnn_batch_norm")
def batch_norm(call: Call) -> Field:
    """By running statistics: value by value. By those of the batch: as `group_norm`."""
    field = call.field("input")
    return over(field, [0, *range(2, call.out[0].ndim)]) if call.args.get("training") else field


@rule("native_group_norm")
def group_norm(call: Call) -> Field:
    return over(call.field("input"), range(1, call.out[0].ndim))


@rule("native_layer_norm")
def layer_norm(call: Call) -> Field:
    ndim = call.out[0].ndim
    return over(call.field("input"), range(ndim - len(call.args["normalized_shape"]), ndim))


@rule("mm", "bmm")
def matmul(call: Call) -> Field:
    return _product(call, call.args["self"], call.args["mat2"])


@rule("addmm", "baddbmm")
def addmm(call: Call) -> Field:
    left, right = ("mat1", "mat2") if call.name == "addmm" else ("batch1", "batch2")
    return unite([call.field("self"), _product(call, call.args[left], call.args[right])], call.out.ndim)


def _product(call: Call, left: Tensor, right: Tensor) -> Field:
    """[..., n, k] times [..., k, m]. Where values meet values, this is attention: each reads all of its window."""
    rows, columns = call.out.ndim - 2, call.out.ndim - 1
    factors = [over(call.field_or_nothing(left), [columns]), over(call.field_or_nothing(right), [rows])]
    if call.field_of(left) is not None and call.field_of(right) is not None:
        factors = [over(factors[0], [rows]), over(factors[1], [columns])]
    return unite(factors, call.out.ndim)


# Moving values about


@rule("view", "_unsafe_view", "_reshape_alias", "unsqueeze", "squeeze")
def view(call: Call) -> Field:
    before, after = call.args["self"].shape, call.out.shape
    return call.field("self").map(lambda spans: along.regroup(spans, before, after))


@rule("permute")
def permute(call: Call) -> Field:
    order = call.dims("dims", call.out)
    return call.field("self").map(lambda spans: spans.transpose(0, *(1 + dim for dim in order)))


@rule("t", "transpose")
def transpose(call: Call) -> Field:
    dims = (0, 1) if call.name == "t" else (call.args["dim0"] % call.out.ndim, call.args["dim1"] % call.out.ndim)
    return call.field("self").map(lambda spans: spans.swapaxes(1 + dims[0], 1 + dims[1]))


@rule("expand")
def expand(call: Call) -> Field:
    return unite([call.field("self")], call.out.ndim)


@rule("slice")
def slice_(call: Call) -> Field:
    [dim] = call.dims("dim", call.out)
    length = _length(call, dim)
    positions = np.arange(length)[call.args["start"] : call.args["end"] : call.args["step"]]
    return call.field("self").map(lambda spans: along.pick(spans, dim, positions))


@rule("select")
def select(call: Call) -> Field:
    [dim] = call.dims("dim", call.args["self"])
    return _at(call.field("self"), dim, call.args["index"] % _length(call, dim))


def _at(field: Field, dim: int, index: int) -> Field:
    return field.map(lambda spans: along.pick(spans, dim, np.array([index])).squeeze(1 + dim))


@rule("unbind")
def unbind(call: Call) -> list[Field]:
    [dim] = call.dims("dim", call.args["self"])
    return [_at(call.field("self"), dim, index) for index in range(len(call.out))]


@rule("split", "split_with_sizes")
def split(call: Call) -> list[Field]:
    [dim] = call.dims("dim", call.args["self"])
    ends = np.cumsum([part.shape[dim] for part in call.out])
    ranges = [np.arange(end - part.shape[dim], end) for end, part in zip(ends, call.out, strict=True)]
    return [call.field("self").map(partial(along.pick, dim=dim, positions=positions)) for positions in ranges]


@rule("cat", "stack")
def join(call: Call) -> Field:
    [dim] = call.dims("dim", call.out)
    fields = [call.field_or_nothing(x) for x in call.args["tensors"]]
    lengths = [x.shape[dim] for x in call.args["tensors"]] if call.name == "cat" else [1] * len(fields)
    if call.name == "stack":
        fields = [field.map(lambda spans: np.expand_dims(spans, 1 + dim)) for field in fields]
    return Field(*(along.join([field[axis] for field in fields], dim, lengths) for axis in (0, 1)))


@rule("roll")
def roll(call: Call) -> Field:
    field = call.field("self")
    for shift, dim in zip(call.args["shifts"], call.dims("dims", call.out), strict=True):
        field = field.map(partial(np.roll, shift=shift, axis=1 + dim))
    return field


@rule("copy_")
def copy(call: Call) -> Field:
    return unite([call.field("src")], call.out.ndim)
