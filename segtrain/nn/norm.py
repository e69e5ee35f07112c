"""Normalisation layers: BatchNorm that can be trained on a batch of one, and what may stand in its place."""

from collections.abc import Callable
from typing import Any, Literal

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from segtrain.errors import ConfigError

NormKind = Literal["batch", "sync", "group"]


class BatchNorm2d(nn.BatchNorm2d):
    """`torch.nn.BatchNorm2d`, defined for one value per channel too.

    A batch of one image whose feature map has shrunk to 1x1 has one value per channel. Its variance is zero, so there
    is nothing to normalise by, and torch raises "Expected more than 1 value per channel when training". Here such
    a batch is normalised by the running statistics, as in evaluation, and leaves them as they are.

    Everything else, parameter names included, is torch's.
    """

    def forward(self, input: Tensor) -> Tensor:
        return _by_running_statistics(self, input) if _is_single(self, input) else super().forward(input)


class SyncBatchNorm(BatchNorm2d):
    """`torch.nn.SyncBatchNorm`: statistics over the batches of all processes; with one process, `BatchNorm2d`.

    On the CPU too, for which torch has none: slower than BatchNorm, for trying out and testing there what will run on
    GPUs. It is no `torch.nn.SyncBatchNorm` by class, because DDP refuses those on the CPU.
    """

    process_group = None  # all processes; what torch's forward asks for
    _check_non_zero_input_channels = nn.SyncBatchNorm._check_non_zero_input_channels

    def forward(self, input: Tensor) -> Tensor:
        alone = not dist.is_initialized() or dist.get_world_size() == 1
        if alone or not self.training:
            return super().forward(input)
        if input.device.type == "cpu":
            return self._over_all_processes(input)
        torchs: Any = nn.SyncBatchNorm.forward
        normed: Tensor = torchs(self, input)
        return normed

    def _over_all_processes(self, x: Tensor) -> Tensor:
        mean, variance, count = _moments_over_all_processes(x.float())
        if self.running_mean is not None and self.running_var is not None:
            self._follow(mean.detach(), variance.detach() * count / (count - 1))
        shape = (1, -1, *(1,) * (x.ndim - 2))
        normed = (x.float() - mean.view(shape)) * torch.rsqrt(variance + self.eps).view(shape)
        if self.affine:
            normed = normed * self.weight.view(shape) + self.bias.view(shape)
        return normed.to(x.dtype)

    def _follow(self, mean: Tensor, unbiased_variance: Tensor) -> None:
        """Moves the running statistics towards the batch's, as torch does."""
        factor = 0.0 if self.momentum is None else self.momentum
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
            factor = 1 / float(self.num_batches_tracked) if self.momentum is None else factor
        assert self.running_mean is not None
        assert self.running_var is not None
        self.running_mean.lerp_(mean, factor)
        self.running_var.lerp_(unbiased_variance, factor)


def _moments_over_all_processes(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and biased variance of each channel over the batches of all processes, and the number of values."""
    others = [axis for axis in range(x.ndim) if axis != 1]
    total: Tensor = _SumOverProcesses.apply(torch.cat([x.sum(others), x.new_tensor([x.numel() / x.shape[1]])]))
    count = total[-1].detach()
    mean = total[:-1] / count
    distance = x - mean.view(1, -1, *(1,) * (x.ndim - 2))  # a second pass: the mean of squares would lose digits
    squares: Tensor = _SumOverProcesses.apply(distance.square().sum(others))
    return mean, squares / count, count


class _SumOverProcesses(torch.autograd.Function):
    """The sum over all processes, whose gradient is the sum of their gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return _summed(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return _summed(gradients[0])


def _summed(x: Tensor) -> Tensor:
    x = x.detach().clone()
    dist.all_reduce(x)
    return x


def convert_norm(module: nn.Module, kind: NormKind) -> None:
    """Makes every BatchNorm in `module` one of `kind`, in place, weights and running statistics kept.

    Args:
        kind: `batch`: `BatchNorm2d`, in place of torch's own | `sync`: `SyncBatchNorm` | `group`: GroupNorm of 32
            groups, or of as many below that as divide the channels and hold two of them each (one value alone has no
            variance). It normalises each image by itself, so that small batches train as large ones do; running
            statistics have no place in it, and pretrained weights lose those they were trained with.

    Raises:
        ConfigError: there is no BatchNorm to convert, or one that activates too (timm's) is to be of another kind.

    Source: Wu and He 2018, arXiv:1803.08494 (GroupNorm, Table 3: 32 groups).
    """
    make: Callable[[nn.BatchNorm2d], nn.Module] = {"batch": _batch, "sync": _sync, "group": _group}[kind]
    if kind != "batch" and not any(isinstance(layer, nn.BatchNorm2d) for layer in module.modules()):
        raise ConfigError(
            f"model.norm={kind}: this network has no BatchNorm to take the place of; set model.norm=batch"
        )
    for parent in list(module.modules()):
        for name, layer in list(parent.named_children()):
            if not isinstance(layer, nn.BatchNorm2d) or isinstance(layer, SyncBatchNorm):
                continue
            if type(layer) in (nn.BatchNorm2d, BatchNorm2d):
                setattr(parent, name, make(layer))
            elif kind != "batch":
                raise ConfigError(
                    f"model.norm={kind}: this network has layers of {type(layer).__name__}, which norm and activate at "
                    "once; use norm=batch"
                )


def _batch(layer: nn.BatchNorm2d) -> nn.Module:
    return layer if isinstance(layer, BatchNorm2d) else _with_state(layer, BatchNorm2d)


def _sync(layer: nn.BatchNorm2d) -> nn.Module:
    return _with_state(layer, SyncBatchNorm)


def _group(layer: nn.BatchNorm2d) -> nn.GroupNorm:
    channels = layer.num_features
    groups = next(n for n in range(max(1, min(32, channels // 2)), 0, -1) if channels % n == 0)
    norm = nn.GroupNorm(groups, channels, eps=layer.eps, affine=layer.affine).to(_device(layer))
    if layer.affine:
        norm.weight, norm.bias = layer.weight, layer.bias
    return norm


def _with_state(layer: nn.BatchNorm2d, kind: Callable[..., nn.BatchNorm2d]) -> nn.Module:
    norm = kind(layer.num_features, layer.eps, layer.momentum, layer.affine, layer.track_running_stats)
    norm.weight, norm.bias = layer.weight, layer.bias
    norm.running_mean, norm.running_var = layer.running_mean, layer.running_var
    norm.num_batches_tracked = layer.num_batches_tracked
    return norm.train(layer.training)


def _device(layer: nn.BatchNorm2d) -> torch.device:
    return next((x.device for x in (*layer.parameters(), *layer.buffers())), torch.device("cpu"))


def _is_single(layer: nn.BatchNorm2d, x: Tensor) -> bool:
    return layer.training and layer.track_running_stats and x.numel() == x.shape[1]


def _by_running_statistics(layer: nn.BatchNorm2d, x: Tensor) -> Tensor:
    return F.batch_norm(
        x, layer.running_mean, layer.running_var, layer.weight, layer.bias, training=False, eps=layer.eps
    )
