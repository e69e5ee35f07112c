"""One optimizer update: what is done to the weights, from batches on the host to a step of the optimizer."""

import contextlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from segtrain.engine.options import TrainerOptions
from segtrain.engine.parts import Parts
from segtrain.engine.world import World
from segtrain.errors import NonFiniteError
from segtrain.types import Batch, Hardware, ModelOutput


@dataclass(frozen=True)
class StepResult:
    """What one update was made from.

    Attributes:
        loss: of all the step's images as one batch; a detached scalar, on the device.
        terms: likewise of each named term.
        gradient_norm: L2 norm over all parameters, before clipping; may be infinite where the update was skipped.
        images: how many there were, on this rank.
        skipped: whether loss scaling left the update out because a gradient overflowed.
    """

    loss: Tensor
    terms: dict[str, Tensor]
    gradient_norm: float
    images: int
    skipped: bool


class TrainStep:
    """Called with the batches of one step, it updates the weights once.

    The gradient is that of all batches of all ranks as one large batch: every term of the loss is normalised by what
    its mean is divided by over all of them. That is exact for means over pixels; for losses over regions each batch's
    own value is weighted by its valid pixels. BatchNorm still normalises batch by batch.

    Attributes:
        model: what is called in training: `parts.model`, or what compiles or distributes it.
        scaler: of the loss, for fp16; does nothing in other precisions.
    """

    def __init__(self, parts: Parts, options: TrainerOptions, hardware: Hardware, world: World) -> None:
        self.parts = parts
        self.options = options
        self.hardware = hardware
        self.world = world
        self.model: nn.Module = parts.model
        self.scaler = torch.amp.GradScaler(hardware.device.type, enabled=hardware.loss_scaling)

    def __call__(self, batches: Sequence[Batch], step: int) -> StepResult:
        """Updates the weights for the time number `step`, counted from 0.

        Raises:
            NonFiniteError: the loss or a gradient is no number; the weights have not been touched. With loss scaling an
                overflowing gradient is expected now and then, and the update is skipped instead.
        """
        self.set_rates(step)
        loaded = [self.to_device(batch) for batch in batches]
        shares = self.shares([labels for _, labels in loaded])
        losses, terms = [], []
        for number, ((images, labels), share) in enumerate(zip(loaded, shares, strict=True)):
            with self._gradients_kept_local(number < len(loaded) - 1):
                total, named = self.forward(images, labels, share)
                self.scaler.scale(total).backward()
            losses.append(total.detach())
            terms.append(named)
        loss = torch.stack(losses).sum()
        optimizer = self.parts.optimizer
        self.scaler.unscale_(optimizer)
        norm = self._clip()
        self._check_finite(float(loss), norm, step)
        scale = self.scaler.get_scale()
        self.scaler.step(optimizer)
        self.scaler.update()
        optimizer.zero_grad(set_to_none=True)
        summed = {name: torch.stack([named[name] for named in terms]).sum() for name in terms[0]}
        count = sum(len(batch.names) for batch in batches)
        return StepResult(loss, summed, norm, count, skipped=self.scaler.get_scale() < scale)

    def compile(self) -> None:
        """Calls the model through torch's compiler from now on; weights and their names stay the model's own."""
        compiled: Any = torch.compile(self.model)
        self.model = compiled

    def set_rates(self, step: int) -> None:
        """Gives every parameter group the learning rate of update number `step`."""
        factor = self.parts.schedule(step)
        for group in self.parts.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor

    def to_device(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Images, uint8, and labels, int64."""
        device = self.hardware.device
        return batch.images.to(device, non_blocking=True), batch.labels.to(device, non_blocking=True).long()

    def forward(self, images: Tensor, labels: Tensor, shares: Tensor | None) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of one batch, and its named terms; `shares` as in `Criterion`."""
        inputs = self.parts.normalize(images).contiguous(memory_format=self.hardware.memory_format)
        with self.hardware.autocast():
            output: ModelOutput = self.model(inputs)
        loss = self.parts.criterion(output, labels, shares)
        return loss.total, loss.terms

    def shares(self, labels: Sequence[Tensor]) -> Sequence[Tensor | None]:
        """What each batch counts, by term. Ranks average their gradients, so each counts as often as there are ranks.

        A batch alone counts 1, and nothing is computed for it.
        """
        if len(labels) == 1 and self.world.size == 1:
            return [None]
        criterion: Any = self.parts.criterion
        each = torch.stack([criterion.denominators(one) for one in labels])
        total = self.world.sum(each.sum(dim=0))
        return list(each * self.world.size / total.masked_fill(total == 0, 1))

    @contextlib.contextmanager
    def _gradients_kept_local(self, kept: bool) -> Iterator[None]:
        """Ranks exchange their gradients once a step, in its last backward pass."""
        if kept and isinstance(self.model, DistributedDataParallel):
            with self.model.no_sync():
                yield
        else:
            yield

    def _clip(self) -> float:
        """The gradient's norm, after which no gradient is longer than `clip_norm`. This waits for the device."""
        parameters = [parameter for parameter in self.parts.model.parameters() if parameter.grad is not None]
        norm: Any = get_total_norm([parameter.grad for parameter in parameters if parameter.grad is not None])
        norm = norm.full_tensor() if hasattr(norm, "full_tensor") else norm  # of parameters shared out over ranks
        if self.options.clip_norm is not None:
            clip_grads_with_norm_(parameters, self.options.clip_norm, norm)
        return float(norm)

    def _check_finite(self, loss: float, norm: float, step: int) -> None:
        """Every rank asks, and all raise if one has to."""
        bad_norm = not math.isfinite(norm) and not self.hardware.loss_scaling
        if self.world.any(bad_norm or not math.isfinite(loss)):
            what, value = ("the gradient's norm", norm) if math.isfinite(loss) else ("the loss", loss)
            found = f"{what} is {value}" if not math.isfinite(value) else "another rank found a loss that is no number"
            raise NonFiniteError(
                f"{found} at step {step + 1}; lower optimizer.lr, set trainer.clip_norm, or use trainer.precision=fp32"
            )
