"""Theoretical receptive fields: how many pixels, in height and width, each feature of a network depends on."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

from segtrain.analysis import spans as along
from segtrain.analysis.fields import Call, Field, constant, unite
from segtrain.analysis.rules import RULES
from segtrain.analysis.spans import ADAPTIVE, NOTHING, UNKNOWN, WHOLE, Spans
from segtrain.models.base import SegmentationModel

# Sides of the images that are looked at. Multiples of 7 * 32 and 8 * 32, which networks with attention in windows want.
SIZES = (1792, 3584, 7168)
BOUNDLESS = {WHOLE: "whole image", ADAPTIVE: "adaptive", UNKNOWN: "unknown"}

# Pointwise operations that torch does not mark, and those that give values which depend on nothing.
ALSO_POINTWISE = {"_to_copy", "alias", "detach", "lift_fresh", "contiguous", "hardswish_", "_prelu_kernel"}
CONSTANT = {"ones_like", "zeros_like", "empty_like", "full_like", "new_zeros", "new_ones", "new_empty", "new_full"}

Side = int | str


class ReceptiveField(NamedTuple):
    """In pixels; or `whole image`, `adaptive` (deformable), `unknown`, `>= N` (larger than could be measured)."""

    height: Side
    width: Side


class Window(NamedTuple):
    """Rows and columns of the image, both ends included."""

    top: int
    bottom: int
    left: int
    right: int


class FieldTracer(TorchDispatchMode):
    """While it is active, follows what every tensor that is computed depends on.

        with torch.no_grad(), FieldTracer() as tracer:
            features = network(tracer.image(torch.empty(1, 3, 512, 512, device="meta")))
        tracer.window(features, 0, 0)    # what the first pixel of the features sees

    Attributes:
        unknown: operations met that no rule is written for; what comes after them is not known.
    """

    def __init__(self) -> None:
        super().__init__()
        self.fields = WeakIdKeyDictionary()
        self.size = (0, 0)
        self.unknown: list[str] = []
        self.lost = False

    def image(self, images: Tensor) -> Tensor:
        """`images`, [N, C, H, W], from now on what fields are counted in."""
        height, width = self.size = (images.shape[-2], images.shape[-1])
        self.fields[images] = Field(along.pixels(height, 2, 4), along.pixels(width, 3, 4))
        return images

    def field(self, x: Tensor) -> Field:
        """Of every value of `x`."""
        field: Field = constant(UNKNOWN, x.ndim) if self.lost else self.fields.get(x, constant(NOTHING, x.ndim))
        return field

    def window(self, x: Tensor, row: int, column: int) -> Window | None:
        """What the values at one position of `x`, [N, C, h, w], see of the image; None where that is nothing.

        At most that: after deformable convolution, or an operation in `unknown`, it is the whole image.
        """
        ends: list[int] = []
        for spans, length in zip(self.field(x), self.size, strict=True):
            here = along.pick(along.pick(spans, 2, np.array([row])), 3, np.array([column]))
            minus_first, last, _ = here.reshape(3, -1).max(axis=1)
            if last == NOTHING:
                return None
            ends += [max(0, -int(minus_first)), min(length - 1, int(last))]
        return Window(*ends)

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        if any(isinstance(x, Tensor) and x in self.fields for x in tree_leaves((args, kwargs))):
            schema = func._schema
            named = {parameter.name: parameter.default_value for parameter in schema.arguments}
            named |= dict(zip(named, args, strict=False)) | kwargs
            call = Call(schema.name.partition("::")[2], named, out, self.fields.get)
            self._follow(call, torch.Tag.pointwise in func.tags)
        return out

    def _follow(self, call: Call, pointwise: bool) -> None:
        if call.name in CONSTANT:
            return
        outputs = [x for x in tree_leaves(call.out) if isinstance(x, Tensor)]
        if call.name in RULES:
            result = RULES[call.name](call)
            found = result if isinstance(result, list) else [result]
        elif pointwise or call.name in ALSO_POINTWISE:
            inputs = [x for x in tree_leaves(call.args) if isinstance(x, Tensor) and x in self.fields]
            found = [unite([self.fields[x] for x in inputs], outputs[0].ndim)]
        else:
            self._note(call.name)
            found = [constant(UNKNOWN, x.ndim) for x in outputs]
        given = {id(x) for x in tree_leaves(call.args)}
        for x, field in zip(outputs, found, strict=False):
            if id(x) in given and x._is_view() and not (x in self.fields and _same(field, self.fields[x])):
                self._note(f"{call.name} on a view")  # whose tensor has now changed as well, and is not at hand
                self.lost = True
            self.fields[x] = field

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
        size: height and width of the images to look at where the model takes no others than those of one size.

    Returns: the fields by name, and the operations that made some of them unknown.
    """
    for side in SIZES:
        any_size = _takes(model, in_channels, side)
        shape = (side, side) if any_size else size
        with torch.no_grad(), FieldTracer() as tracer:
            images = tracer.image(torch.empty(1, in_channels, *shape, device="meta"))
            outputs = run(model.eval(), images)
        fields = {name: _in_the_middle(tracer.field(x), x, shape) for name, x in outputs.items()}
        if not (any_size and any(str(length).startswith(">") for field in fields.values() for length in field)):
            break
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


def _takes(model: SegmentationModel, in_channels: int, side: int) -> bool:
    """Whether the model runs on squares of `side` pixels; one with learned positions may not."""
    try:
        with torch.no_grad():
            model.eval()(torch.empty(1, in_channels, side, side, device="meta"))
    except (RuntimeError, AssertionError, ValueError):
        return False
    return True


def _in_the_middle(field: Field, x: Tensor, size: tuple[int, int]) -> ReceptiveField:
    return ReceptiveField(
        *(_largest(spans, 2 + axis, x.shape[2 + axis], size[axis]) for axis, spans in enumerate(field))
    )


def _largest(spans: Spans, dim: int, length: int, image: int) -> Side:
    """The largest span at the positions in the middle quarter, where borders cut off least."""
    middle = along.pick(spans, dim, np.arange(3 * length // 8, max(5 * length // 8, 3 * length // 8 + 1)))
    minus_first, last, padded = middle.reshape(3, -1)
    for level, name in BOUNDLESS.items():
        if last.max() >= level:
            return name
    largest = int((minus_first + last).max()) + 1
    is_cut_off = padded.any() or minus_first.max() >= 0 or last.max() >= image - 1
    return f">= {largest}" if is_cut_off else max(0, largest)


def _same(one: Field, other: Field) -> bool:
    return all(a is b or np.array_equal(a, b) for a, b in zip(one, other, strict=True))
