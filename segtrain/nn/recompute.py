"""Activation checkpointing: memory for time."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint


def recomputed(module: nn.Module, x: Tensor) -> Any:
    """`module(x)`, one tensor or several, whose activations are dropped and computed once more in the backward pass.

    Values, gradients and random draws (dropout) are those of a plain call. So are BatchNorm's running statistics: the
    second pass sees the batch again and must not count it twice.

    Source: Chen et al. 2016, arXiv:1604.06174.
    """
    return checkpoint(module, x, use_reentrant=False, context_fn=lambda: (nullcontext(), _statistics_kept(module)))


@contextmanager
def _statistics_kept(module: nn.Module) -> Iterator[None]:
    """BatchNorms in `module` normalise by the batch but do not take it into their running statistics."""
    norms = [layer for layer in module.modules() if isinstance(layer, _BatchNorm)]
    kept = [(layer.momentum, layer.num_batches_tracked) for layer in norms]
    for layer in norms:
        counted = layer.num_batches_tracked
        layer.momentum, layer.num_batches_tracked = 0.0, None if counted is None else counted.clone()
    try:
        yield
    finally:
        for layer, (momentum, num_batches) in zip(norms, kept, strict=True):
            layer.momentum, layer.num_batches_tracked = momentum, num_batches
