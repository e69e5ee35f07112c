"""A model trained by several processes: replicated in each (DDP), or with its parameters shared out (FSDP2).

Whichever it is, a checkpoint holds whole tensors in the model's and the optimizer's own layout, so that a run may go on
with another number of processes, or with none of this.
"""

import contextlib
import warnings
from collections.abc import Iterator
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from segtrain.distributed.world import World
from segtrain.errors import ConfigError
from segtrain.inference.predictor import evaluation_mode

ParallelName = Literal["ddp", "fsdp"]
# A part is gathered by itself where it holds between these shares of the model's parameters: smaller ones are not
# worth a message of their own, of a larger one its parts are gathered.
LEAST_SHARE, LARGEST_SHARE = 1 / 256, 1 / 8


def replicate(model: nn.Module, world: World) -> nn.Module:
    """What to call in training instead of `model`, which every process has a copy of: gradients are averaged.

    To be called anew whenever parts of the model were frozen or freed. Buffers are those of the main process in every
    forward pass.
    """
    on_gpu = world.device.type == "cuda"
    return DistributedDataParallel(model, device_ids=[world.device.index] if on_gpu else None)


def check_all_learn(model: nn.Module) -> None:
    """Raises ConfigError where a parameter that should learn got no gradient: DDP would wait for it for ever."""
    names = [name for name, x in model.named_parameters() if x.requires_grad and x.grad is None]
    if names:
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        raise ConfigError(
            f"model: the loss does not depend on {', '.join(names[:3])}{more}, which trainer.devices above 1 cannot "
            "train with: take them out of the model, or set requires_grad=False in its constructor"
        )


def shard(model: nn.Module, world: World, images: Tensor) -> None:
    """Shares the parameters of `model` out over the processes, in place; its values are those of the main process.

    A part's parameters are gathered while it computes. To be called before the optimizer is made.

    Args:
        model: on the world's device.
        world: of more than one process.
        images: [N, C, H, W] float, any that the model can be called with, to see which parts it calls.
    """
    model.to(memory_format=torch.contiguous_format)  # FSDP2 takes no other weights; activations may still be NHWC
    with torch.no_grad():
        for value in model.state_dict().values():
            dist.broadcast(value, src=0)
    # Of a model that crops its logits. Nothing writes into them in place, which is what torch warns of.
    warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view tensor")
    mesh = init_device_mesh(world.device.type, (world.size,))
    for part in _parts(model, _called(model, images)):
        fully_shard(part, mesh=mesh)
    fully_shard(model, mesh=mesh)


def _called(model: nn.Module, images: Tensor) -> set[nn.Module]:
    """The modules that are called as a whole: of others the model uses single children, behind their backs."""
    called: set[nn.Module] = set()
    hooks = [module.register_forward_pre_hook(lambda module, _: called.add(module)) for module in model.modules()]
    try:
        with torch.no_grad(), evaluation_mode(model):
            model(images)
    finally:
        for hook in hooks:
            hook.remove()
    return called


def _parts(model: nn.Module, called: set[nn.Module]) -> list[nn.Module]:
    """The modules whose parameters are gathered together."""
    whole = _size(model)

    def within(module: nn.Module) -> Iterator[nn.Module]:
        for child in module.children():
            divisible = _size(child) > LARGEST_SHARE * whole and any(True for _ in child.children())
            if child in called and not divisible:
                if _size(child) >= LEAST_SHARE * whole:
                    yield child
            else:
                yield from within(child)

    return list(within(model))


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@contextlib.contextmanager
def exchanged_once(model: nn.Module, last: bool) -> Iterator[None]:
    """Of several backward passes for one update only the `last` exchanges gradients."""
    if isinstance(model, DistributedDataParallel) and not last:
        with model.no_sync():
            yield
        return
    if isinstance(model, FSDPModule):
        model.set_requires_gradient_sync(last)
    yield


@contextlib.contextmanager
def whole(model: nn.Module, world: World) -> Iterator[None]:
    """For this long every process can compute with the model alone, and all with the same one.

    Buffers, such as running statistics of norms, are the main process's from now on.
    """
    if world.size > 1:
        with torch.no_grad():
            for buffer in model.buffers():
                dist.broadcast(buffer, src=0)
    sharded = [module for module in model.modules() if isinstance(module, FSDPModule)]
    for module in sharded:
        module.set_reshard_after_forward(False, recurse=False)
        module.unshard()
    try:
        yield
    finally:
        for module in sharded:
            module.reshard()
            module.set_reshard_after_forward(True, recurse=False)


def local(tensor: Tensor) -> Tensor:
    """What of a tensor is in this process; what is done to it elementwise in place is done to the tensor."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def gathered(state: Any) -> Any:
    """A state dict with whole tensors; all processes must call it, and each gets all of it."""
    if isinstance(state, DTensor):
        return state.full_tensor()
    if isinstance(state, dict):
        return {key: gathered(value) for key, value in state.items()}
    if isinstance(state, list | tuple):
        return type(state)(gathered(value) for value in state)
    return state


def model_part(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Of a whole state dict of `model` what belongs to this process."""
    own = model.state_dict()
    return {name: _part(value, own.get(name)) for name, value in state.items()}


def optimizer_part(state: dict[str, Any], optimizer: Optimizer) -> dict[str, Any]:
    """Of a whole state dict of `optimizer` what belongs to this process."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    numbers = [number for group in state["param_groups"] for number in group["params"]]
    of = dict(zip(numbers, parameters, strict=True))
    parts = {
        number: {name: _part(value, of[number]) for name, value in moments.items()}
        for number, moments in state["state"].items()
    }
    return {**state, "state": parts}


def _part(value: Any, like: Tensor | None) -> Any:
    """`value` shared out as `like` is, where it is a tensor of the same shape."""
    if not isinstance(like, DTensor) or not isinstance(value, Tensor) or value.shape != like.shape:
        return value
    # Every process has all of it already: nothing is sent.
    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements, src_data_rank=None)
