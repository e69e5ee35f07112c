"""Theoretical receptive fields: how many pixels, in height and width, each feature of a network depends on."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

from segtrain.analysis import spans as along
from segtrain.analysis.rules import RULES, Call
from segtrain.analysis.spans import ADAPTIVE, NOTHING, UNKNOWN, WHOLE, Spans
from segtrain.errors import ConfigError
from segtrain.models.base import SegmentationModel

# Sides of the images that are looked at. Multiples of 7 * 32 and 8 * 32, which networks with attention in windows want.
SIZES = (1792, 3584, 7168)
BOUNDLESS = {WHOLE: "whole image", ADAPTIVE: "adaptive", UNKNOWN: "unknown"}
ALSO_POINTWISE = {"alias", "hardswish", "hardswish_"}  # which torch does not mark

# How networks refuse an image: by torch's errors, their own assertions, or a line for the user.
REFUSALS = (RuntimeError, AssertionError, ValueError, ConfigError)

Side = int | str
Field = tuple[Spans, Spans]  # along the image's rows, and along its columns


class ReceptiveField(NamedTuple):
    """In pixels; or `whole image`, `adaptive` (deformable), `unknown`, `>= N` (larger than could be measured)."""

    height: Side
    width: Side


class FieldTracer(TorchDispatchMode):
    """While it is active, follows what every tensor that is computed depends on.

        with torch.no_grad(), FieldTracer() as tracer:
            features = network(tracer.image(torch.empty(1, 3, 512, 512, device="meta")))
        tracer.field(features)    # what each of the features' values sees

    Attributes:
        unknown: operations met that no rule is written for; what comes after them is not known.
    """

    def __init__(self) -> None:
        super().__init__()
        self.fields = WeakIdKeyDictionary()
        self.unknown: list[str] = []
        self.lost = False

    def image(self, images: Tensor) -> Tensor:
        """`images`, [N, C, H, W], from now on what fields are counted in."""
        self.fields[images] = (along.pixels(images.shape[2], 2, 4), along.pixels(images.shape[3], 3, 4))
        return images

    def field(self, x: Tensor) -> Field:
        """Of every value of `x`."""
        nothing, unknown = along.constant(NOTHING, x.ndim), along.constant(UNKNOWN, x.ndim)
        field: Field = (unknown, unknown) if self.lost else self.fields.get(x, (nothing, nothing))
        return field

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        seeing = [x for x in given if x in self.fields]
        if seeing:
            schema = func._schema
            named = {parameter.name: parameter.default_value for parameter in schema.arguments}
            named |= dict(zip(named, args, strict=False)) | kwargs
            name, pointwise = schema.name.partition("::")[2], torch.Tag.pointwise in func.tags
            outputs = [x for x in tree_leaves(out) if isinstance(x, Tensor)]
            rows, columns = (
                self._follow(Call(name, named, out, self._spans_along(axis)), seeing, outputs, pointwise)
                for axis in (0, 1)
            )
            for x, *field in zip(outputs, rows, columns, strict=False):  # indices and statistics see what nobody asks
                if any(x is one for one in given) and x._is_view() and not _same(field, self.fields.get(x)):
                    self._note(f"{name} on a view")  # whose tensor has now changed as well, and is not at hand
                    self.lost = True
                self.fields[x] = tuple(field)
        return out

    def _spans_along(self, axis: int) -> Callable[[Tensor], Spans | None]:
        return lambda x: self.fields[x][axis] if x in self.fields else None

    def _follow(self, call: Call, seeing: Sequence[Tensor], outputs: Sequence[Tensor], pointwise: bool) -> list[Spans]:
        """Spans of the operation's outputs, of the first ones where they are all that is used."""
        if call.name in RULES:
            result = RULES[call.name](call)
            return result if isinstance(result, list) else [result]
        inputs = [call.spans(x) for x in seeing]
        if pointwise or call.name in ALSO_POINTWISE:
            return [along.unite(inputs, outputs[0].ndim)]
        if all(spans.size == 3 for spans in inputs):  # of values that all see the same, any operation sees just that
            return [np.max([spans.ravel() for spans in inputs], axis=0).reshape(3, *[1] * x.ndim) for x in outputs]
        self._note(call.name)
        return [along.constant(UNKNOWN, x.ndim) for x in outputs]

    def _note(self, name: str) -> None:
        if name not in self.unknown:
            self.unknown.append(name)


def receptive_fields(
    model: SegmentationModel, in_channels: int, size: tuple[int, int]
) -> tuple[dict[str, ReceptiveField], list[str]]:
    """The largest receptive field in the middle of every feature of the backbone, and of `logits`.

    In evaluation mode: BatchNorm over a training batch would see everything.

    Args:
        model: on the meta device.
        in_channels: of the images.
        size: height and width of the images to look at where the model does not take larger ones of any size.

    Returns: the fields by name, and the operations that made some of them unknown.
    """
    for side in SIZES:
        try:
            fields, unknown = _traced(model, in_channels, (side, side))
        except REFUSALS:
            return _traced(model, in_channels, size)
        if not any(str(length).startswith(">") for field in fields.values() for length in field):
            break
    return fields, unknown


def _traced(
    model: SegmentationModel, in_channels: int, size: tuple[int, int]
) -> tuple[dict[str, ReceptiveField], list[str]]:
    with torch.no_grad(), FieldTracer() as tracer:
        outputs = run(model.eval(), tracer.image(torch.empty(1, in_channels, *size, device="meta")))
    fields = {
        name: ReceptiveField(
            *(_largest(spans, 2 + axis, x.shape[2 + axis], size[axis]) for axis, spans in enumerate(tracer.field(x)))
        )
        for name, x in outputs.items()
    }
    return fields, tracer.unknown


def run(model: SegmentationModel, images: Tensor) -> dict[str, Tensor]:
    """The backbone's features, and `logits`."""
    outputs: dict[str, Tensor] = {}

    def keep(module: nn.Module, args: Any, features: dict[str, Tensor]) -> None:
        for name, x in features.items():
            outputs.setdefault(name, x)  # a model may run it again, on the image at other scales

    hook = model.backbone.register_forward_hook(keep)
    try:
        return {"logits": model(images).logits} | outputs
    finally:
        hook.remove()


def _largest(spans: Spans, dim: int, length: int, image: int) -> Side:
    """The largest span at the positions in the middle quarter, where borders cut off least."""
    middle = along.read(spans, dim, np.arange(3 * length // 8, max(5 * length // 8, 3 * length // 8 + 1)))
    minus_first, last, padded = middle.reshape(3, -1)
    for level, name in BOUNDLESS.items():
        if last.max() >= level:
            return name
    largest = int((minus_first + last).max()) + 1
    is_cut_off = padded.any() or minus_first.max() >= 0 or last.max() >= image - 1
    return f">= {largest}" if is_cut_off else max(0, largest)


def _same(one: Sequence[Spans], other: Field | None) -> bool:
    return other is not None and all(a is b or np.array_equal(a, b) for a, b in zip(one, other, strict=True))
