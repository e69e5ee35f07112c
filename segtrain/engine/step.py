"""One optimizer update: what is done to the weights, from batches on the host to a step of the optimizer."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from segtrain.distributed.parallel import check_all_learn, exchanged_once, gathered, replicate
from segtrain.distributed.world import World
from segtrain.engine.options import TrainerOptions
from segtrain.engine.parts import Parts
from segtrain.errors import NonFiniteError
from segtrain.types import Batch, Hardware, ModelOutput


@dataclass(frozen=True)
class StepResult:
    """What one update was made from.

    Attributes:
        loss: of all images of the step, on all ranks, as one batch; a detached scalar, on the device.
        terms: likewise of each named term.
        gradient_norm: L2 norm over all parameters, before clipping; may be infinite where the update was skipped.
        images: how many there were, on all ranks.
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
        suspect: whether a newest step without a number may be this rank's fault: its own part of the loss was none.
    """

    def __init__(self, parts: Parts, options: TrainerOptions, hardware: Hardware, world: World) -> None:
        self.parts = parts
        self.options = options
        self.hardware = hardware
        self.world = world
        self.model: nn.Module = parts.model
        self._undistributed: nn.Module = parts.model
        self._first = True
        self.suspect = True
        self.scaler = torch.amp.GradScaler(hardware.device.type, enabled=hardware.loss_scaling)

    def __call__(self, batches: Sequence[Batch], step: int) -> StepResult:
        """Updates the weights for the time number `step`, counted from 0.

        Raises:
            NonFiniteError: the loss or a gradient is no number; the weights have not been touched. With loss scaling an
                overflowing gradient is expected now and then, and the update is skipped instead.
        """
        self.set_rates(step)
        # Here and not at the end: memory that is free when the forward pass begins has not gone back to the system.
        self.parts.optimizer.zero_grad(set_to_none=True)
        loaded = [self.to_device(batch) for batch in batches]
        shares = self.shares([labels for _, labels in loaded])
        losses, terms = [], []
        for number, ((images, labels), share) in enumerate(zip(loaded, shares, strict=True)):
            with exchanged_once(self.model, last=number == len(loaded) - 1):
                total, named = self.forward(images, labels, share)
                self.scaler.scale(total).backward()
            losses.append(total.detach())
            terms.append(named)
        if self._first and self.model is not self._undistributed:
            check_all_learn(self.parts.model)
        self._first = False
        self.suspect = self.world.size == 1 or not bool(torch.stack(losses).isfinite().all())
        loss, summed = self._over_all_ranks(losses, terms)
        optimizer = self.parts.optimizer
        self.scaler.unscale_(optimizer)
        norm = self._clip()
        self._check_finite(float(loss), norm, step)
        scale = self.scaler.get_scale()
        self.scaler.step(optimizer)
        self.scaler.update()
        count = sum(len(batch.names) for batch in batches) * self.world.size
        return StepResult(loss, summed, norm, count, skipped=self.scaler.get_scale() < scale)

    def compile(self) -> None:
        """Calls the model through torch's compiler from now on; weights and their names stay the model's own."""
        compiled: Any = torch.compile(self.parts.model)
        self.model = self._undistributed = compiled

    def distribute(self) -> None:
        """Has the ranks average their gradients; again whenever parts of the model were frozen or freed."""
        if self.world.size > 1 and self.options.parallel == "ddp":
            self.model = replicate(self._undistributed, self.world)
            self._first = True

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

    def _over_all_ranks(
        self, losses: Sequence[Tensor], terms: Sequence[dict[str, Tensor]]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The step's loss and its named terms; each rank's counted as often as there are ranks, see `shares`."""
        names = list(terms[0])
        rows = [
            torch.stack([loss, *(named[name] for name in names)]) for loss, named in zip(losses, terms, strict=True)
        ]
        values = self.world.sum(torch.stack(rows).sum(dim=0)) / self.world.size
        return values[0], dict(zip(names, values[1:], strict=True))

    def _clip(self) -> float:
        """The gradient's norm, after which no gradient is longer than `clip_norm`. This waits for the device."""
        parameters = [parameter for parameter in self.parts.model.parameters() if parameter.grad is not None]
        norm: Any = get_total_norm([parameter.grad for parameter in parameters if parameter.grad is not None])
        if self.options.clip_norm is not None:
            clip_grads_with_norm_(parameters, self.options.clip_norm, norm)
        return float(gathered(norm))

    def _check_finite(self, loss: float, norm: float, step: int) -> None:
        """All ranks have the same loss and the same norm, so that all raise if one does."""
        bad_norm = not math.isfinite(norm) and not self.hardware.loss_scaling
        if bad_norm or not math.isfinite(loss):
            what, value = ("the gradient's norm", norm) if math.isfinite(loss) else ("the loss", loss)
            raise NonFiniteError(
                f"{what} is {value} at step {step + 1}; lower optimizer.lr, set trainer.clip_norm, or use "
                "trainer.precision=fp32"
            )
