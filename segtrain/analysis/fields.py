"""The receptive fields of a tensor's values, and an operation that makes some out of others."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor

from segtrain.analysis import spans as along
from segtrain.analysis.spans import NOTHING, Spans


class Field(NamedTuple):
    """The receptive fields of a tensor's values: spans along the image's rows and along its columns."""

    rows: Spans
    columns: Spans

    def map(self, function: Callable[[Spans], Spans]) -> "Field":
        return Field(function(self.rows), function(self.columns))


@dataclass(frozen=True)
class Call:
    """One operation, as it was called.

    Attributes:
        name: as in torch's schema, `aten::` left out.
        args: by name, defaults filled in.
        out: what it returned.
        field_of: the field of a tensor; None of one that depends on no pixel.
    """

    name: str
    args: dict[str, Any]
    out: Any
    field_of: Callable[[Tensor], Field | None]

    def field(self, name: str) -> Field:
        """Of the argument called `name`; that of a value on which nothing depends where it has none or is None."""
        x = self.args[name]
        return self.field_or_nothing(x) if isinstance(x, Tensor) else constant(NOTHING, 1)

    def field_or_nothing(self, x: Tensor) -> Field:
        field = self.field_of(x)
        return constant(NOTHING, x.ndim) if field is None else field

    def dims(self, name: str, x: Tensor) -> list[int]:
        """The argument called `name` as a list of dims of `x`, counted from 0; all of them where it says none."""
        given = self.args[name]
        dims = [given] if isinstance(given, int) else given or range(x.ndim)
        return [dim % x.ndim for dim in dims]


def constant(level: int, ndim: int) -> Field:
    return Field(along.constant(level, ndim), along.constant(level, ndim))


def unite(fields: Sequence[Field], ndim: int) -> Field:
    return Field(along.unite([one.rows for one in fields], ndim), along.unite([one.columns for one in fields], ndim))


def over(field: Field, dims: Sequence[int]) -> Field:
    return field.map(lambda spans: along.over(spans, dims))
