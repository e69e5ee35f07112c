"""Computing with heights and widths so that an exported model holds for images of every size."""

from typing import TypeVar

import torch
from torch import Tensor

Length = TypeVar("Length", int, Tensor)


def is_size_free() -> bool:
    """True while a model is exported or traced: what is recorded serves images of every size.

    A branch on a height or width would then be decided once, by the sample, for all images. Layers that branch on sizes
    to save time take the way that is right for all.
    """
    return torch.compiler.is_exporting() or torch.jit.is_tracing()


def divided_up(length: Length, divisor: int) -> Length:
    """`length / divisor` rounded up; not -(-length // divisor), since ONNX divides towards zero."""
    return (length + divisor - 1) // divisor
