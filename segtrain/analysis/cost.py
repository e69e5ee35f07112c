"""What a network weighs and costs: parameters, multiply-accumulates, and the memory its activations take.

Everything runs on fake tensors, which know shape, dtype and storage and hold no values: no memory is taken and nothing
is computed, whatever the size of network and images.
"""

import math
import weakref
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torchvision.ops  # noqa: F401, for torch.ops.torchvision
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from segtrain.models.base import SegmentationModel


class Shares(NamedTuple):
    """A number for each part of a model; the decoder is all that is neither backbone nor auxiliary head.

    Attributes:
        auxiliary: None of a forward pass in evaluation, which has no auxiliary heads.
    """

    backbone: int
    decoder: int
    auxiliary: int | None

    @property
    def evaluated(self) -> int:
        """Of the model as it is evaluated, without auxiliary heads."""
        return self.backbone + self.decoder

    @property
    def total(self) -> int:
        return self.evaluated + (self.auxiliary or 0)


class Memory(NamedTuple):
    """Bytes of activations, the images included, that are alive at the same time, at most.

    Parameters, their gradients, the optimizer's state, the loss and the kernels' own workspace come on top.

    Attributes:
        training: in a forward pass in training: what is kept for the backward pass, and what the step at work reads and
            writes. The gradients of the backward pass come on top; with activation checkpointing, so do one block's
            recomputed activations at a time.
        inference: in a forward pass in evaluation, which keeps nothing.
        weight_copies: the weights in the lower precision, which autocast makes and keeps: on top of both.
    """

    training: int
    inference: int
    weight_copies: int


class FakeNetwork:
    """A network whose tensors are fake.

    Args:
        module: any; on the meta device, and from now on in use here only.
        dtype: that autocast computes in; None for float32 throughout.
    """

    def __init__(self, module: nn.Module, dtype: torch.dtype | None) -> None:
        self.module, self.dtype = module, dtype
        self.mode = FakeTensorMode(allow_non_fake_inputs=True)
        with self.mode:
            module.to_empty(device="cpu")
        self.weights = {key_of(x) for x in (*module.parameters(), *module.buffers())}

    def run(self, shape: Sequence[int]) -> Any:
        """The module on images of `shape`, [N, C, H, W], in the mode it is in."""
        with self.mode, torch.autocast("cpu", dtype=self.dtype or torch.bfloat16, enabled=self.dtype is not None):
            return self.module(torch.empty(shape))


def count_parameters(model: SegmentationModel) -> Shares:
    """Of each part; shared ones count once, in the first part that has them."""
    seen: set[int] = set()
    counts = []
    for part in (model.backbone, model.auxiliary, model):
        new = {id(x): x.numel() for x in part.parameters() if id(x) not in seen}
        seen |= new.keys()
        counts.append(sum(new.values()))
    backbone, auxiliary, decoder = counts
    return Shares(backbone, decoder, auxiliary)


def inference_cost(network: FakeNetwork, shape: Sequence[int]) -> tuple[dict[str, int], int]:
    """Multiply-accumulates of a forward pass in evaluation, and `Memory.inference`.

    Counted are those of convolutions (deformable ones without their interpolation), linear layers and attention; norms,
    activations, pooling and resizing are left out, as usual.

    Args:
        shape: of the images, [N, C, H, W].

    Returns: the counts by the dotted name of every submodule that has some, "" for the whole; bytes.
    """
    network.module.eval()
    formulas = {torch.ops.torchvision.deform_conv2d: _deform_conv_flops}
    counter = FlopCounterMode(display=False, custom_mapping=formulas)
    with torch.no_grad(), LiveBytes(network.weights) as memory, counter:
        network.run(shape)
    root = type(network.module).__name__  # with which the counter begins every name
    counts = {name: sum(by_operation.values()) // 2 for name, by_operation in counter.get_flop_counts().items()}
    return {"": 0} | {name.removeprefix(root).lstrip("."): count for name, count in counts.items()}, memory.peak


def _deform_conv_flops(
    images: Sequence[int], weight: Sequence[int], *args: Any, out_shape: Sequence[int], **kwargs: Any
) -> int:
    return 2 * math.prod(out_shape) * math.prod(weight[1:])


def training_memory(network: FakeNetwork, shape: Sequence[int]) -> tuple[int, int]:
    """`Memory.training` and `Memory.weight_copies`, at images of `shape`, [N, C, H, W]."""
    network.module.train()
    with LiveBytes(network.weights) as memory:
        network.run(shape)
    return memory.peak, sum(storage.nbytes() for storage in memory.copies.values())


class LiveBytes(TorchDispatchMode):
    """While it is active, counts the bytes of the tensors that are computed and not yet freed.

    A tensor counts with the whole of its storage, once however many views of it there are.

    Args:
        weights: storages of what does not count. Copies that autocast makes of them do not either.

    Attributes:
        alive: bytes now.
        peak: the most there were.
        copies: the storages of the weights' copies.
    """

    def __init__(self, weights: set[int]) -> None:
        super().__init__()
        self.weights = weights
        self.copies: dict[int, torch.UntypedStorage] = {}
        self.known: set[int] = set()
        self.alive = self.peak = 0

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        storages = {key_of(x): x.untyped_storage() for x in tree_leaves(out) if isinstance(x, Tensor)}
        if func is torch.ops.aten._to_copy.default and key_of(args[0]) in self.weights:
            self.copies |= storages
        for key, storage in storages.items():
            if key not in self.known and key not in self.copies and key not in self.weights:
                self.known.add(key)
                self.alive += storage.nbytes()
                weakref.finalize(storage, self._free, key, storage.nbytes())
        self.peak = max(self.peak, self.alive)
        return out

    def _free(self, key: int, size: int) -> None:
        self.known.remove(key)
        self.alive -= size


def key_of(x: Tensor) -> int:
    """The same for all views of one storage, as long as it lives."""
    return x.untyped_storage()._cdata
