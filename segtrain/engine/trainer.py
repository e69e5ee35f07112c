"""The training loop: load, forward, backward, step, log, evaluate, save, as plain calls."""

import logging
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.optim import Optimizer

from segtrain.engine import checkpoint
from segtrain.engine.evaluate import Evaluation, evaluate, monitor_name
from segtrain.engine.interrupt import Interrupt
from segtrain.engine.logger import RunLogger
from segtrain.engine.options import TrainerOptions
from segtrain.engine.precision import random_state, restore_random_state
from segtrain.engine.progress import Progress
from segtrain.engine.run_directory import RunDirectory, write_json
from segtrain.engine.state import RunState
from segtrain.engine.window import Window
from segtrain.errors import DataError, NonFiniteError
from segtrain.inference import Predictor
from segtrain.types import Batch, DataFacts, Example, Hardware, ModelOutput

log = logging.getLogger("segtrain")


@dataclass(frozen=True)
class Parts:
    """What a trainer is handed: everything that varies between runs, already built.

    Attributes:
        model: float images -> `ModelOutput`.
        normalize: uint8 images -> float images, on the device.
        criterion: (ModelOutput, labels) -> (total, terms).
        optimizer: its groups hold `initial_lr`, and a `name` for the log.
        schedule: step -> factor on every group's `initial_lr`.
        train_batches: step -> the endless stream of training batches, from that step on.
        val_batches: one pass over the validation set.
        num_val_images: how many that are.
        predictor: the same model with its inference strategy.
        facts: of the data.
        saved: what a checkpoint holds besides weights and state: the config, its choices, the facts, as plain values.
        draw: examples -> one [H, W, 3] uint8 picture.
    """

    model: nn.Module
    normalize: nn.Module
    criterion: nn.Module
    optimizer: Optimizer
    schedule: Callable[[int], float]
    train_batches: Callable[[int], Iterable[Batch]]
    val_batches: Iterable[list[Batch]]
    num_val_images: int
    predictor: Predictor
    facts: DataFacts
    saved: dict[str, Any]
    draw: Callable[[list[Example]], NDArray[np.uint8]]


class Trainer:
    """Trains, evaluates and saves one run.

    `train()` returns when `max_steps` updates are done or a signal came (`stopped_by`); `last.pt` then
    holds the newest state. The criterion is expected to have its state already when a run is resumed.
    """

    def __init__(
        self,
        parts: Parts,
        options: TrainerOptions,
        max_steps: int,
        hardware: Hardware,
        directory: RunDirectory,
        resume_from: dict[str, Any] | None,
    ) -> None:
        self.parts = parts
        self.options = options
        self.max_steps = max_steps
        self.hardware = hardware
        self.directory = directory
        self.monitor = monitor_name(options.monitor, parts.facts)
        self.state = RunState()
        self.scaler = torch.amp.GradScaler(hardware.device.type, enabled=hardware.loss_scaling)
        self.newest: Evaluation | None = None
        self.stopped_by: int | None = None
        if resume_from is not None:
            self._restore(resume_from)
        self.logger = RunLogger(directory, resumed_step=self.state.step)
        self.window = Window(hardware.device)

    def train(self) -> RunState:
        """Runs to the end, or to the step in which a signal came; `finished` says which.

        Raises:
            DataError: a sample cannot be read; the steps done so far are saved first.
            NonFiniteError: the loss, or a gradient that is clipped, is no longer a number.
        """
        self.parts.model.train()
        batches = iter(self.parts.train_batches(self.state.step))
        progress = Progress(
            "train", self.max_steps, initial=self.state.step, unit="step", line_every=self.options.log_every
        )
        with Interrupt() as interrupt, progress:
            try:
                self._loop(batches, interrupt, progress)
            except DataError:
                if self.state.step > 0:
                    self.save_last()
                raise
            self.save_last()
        self.stopped_by = interrupt.signal
        return self.state

    def _loop(self, batches: Iterator[Batch], interrupt: Interrupt, progress: Progress) -> None:
        while not interrupt.requested:
            if self._evaluation_due():
                self.evaluate(interrupt)
            if self.state.step >= self.max_steps or interrupt.requested:
                return
            self.train_step(batches)
            if self.state.step % self.options.log_every == 0 or self.state.step == self.max_steps:
                self.log_window(progress)
            progress.advance()
            if self.options.save_every and self.state.step % self.options.save_every == 0:
                self.save_last()

    @property
    def finished(self) -> bool:
        return self.state.step >= self.max_steps and not self._evaluation_due()

    def train_step(self, batches: Iterator[Batch]) -> None:
        """One optimizer update over `accumulate` batches."""
        factor = self.parts.schedule(self.state.step)
        for group in self._groups():
            group["lr"] = group["initial_lr"] * factor
        # All of the step's batches are there before any is used: a bad sample leaves no half-done step behind.
        with self.window.waiting_for_data():
            step_batches = [next(batches) for _ in range(self.options.accumulate)]
        for batch in step_batches:
            loss, terms = self.forward(batch)
            self.scaler.scale(loss / self.options.accumulate).backward()
            self.window.add(loss.detach(), terms, len(batch.names))
        if self.options.clip_norm is not None:
            self.scaler.unscale_(self.parts.optimizer)
            norm = nn.utils.clip_grad_norm_(self.parts.model.parameters(), self.options.clip_norm)
            if not self.hardware.loss_scaling and not torch.isfinite(norm):
                raise NonFiniteError(_not_finite("the gradient's norm", float(norm), self.state.step + 1))
            self.window.gradient_norm = norm
        self.scaler.step(self.parts.optimizer)
        self.scaler.update()
        self.parts.optimizer.zero_grad(set_to_none=True)
        self.state.step += 1

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of one batch, and its named terms."""
        device = self.hardware.device
        images = batch.images.to(device, non_blocking=True)
        labels = batch.labels.to(device, non_blocking=True).long()
        inputs = self.parts.normalize(images).contiguous(memory_format=self.hardware.memory_format)
        with self.hardware.autocast():
            output: ModelOutput = self.parts.model(inputs)
        loss = self.parts.criterion(output, labels)
        return loss.total, loss.terms

    def log_window(self, progress: Progress) -> None:
        """Logs the means since the last call; this is where the device is waited for.

        Raises:
            NonFiniteError: the loss is no longer a number.
        """
        values = self.window.means()
        self._check_finite()
        rates = {group["name"]: group["lr"] for group in self._groups()}
        for name, rate in rates.items():
            values[f"lr/{name}"] = rate
        self.logger.scalars("train", self.state.step, values)
        progress.show(
            f"loss {values['loss']:.4f}  lr {max(rates.values()):.2e}  {values['images_per_second']:.1f} img/s  "
            f"data {values['data_share']:.0%}"
        )
        self.window = Window(self.hardware.device)

    def _evaluation_due(self) -> bool:
        step = self.state.step
        every = self.options.evaluate_every
        on_schedule = step > 0 and (step == self.max_steps or (every is not None and step % every == 0))
        return on_schedule and self.state.evaluated_step != step

    def evaluate(self, interrupt: Interrupt) -> None:
        """Evaluates, records the best, and saves; leaves all as it was if interrupted."""
        parts = self.parts
        with self.window.pause():
            evaluation = evaluate(
                parts.predictor, parts.criterion, parts.val_batches, parts.facts, parts.num_val_images,
                self.options.pictures, should_stop=lambda: interrupt.requested,
            )  # fmt: skip
            if evaluation is not None:
                self._record(evaluation)

    def _record(self, evaluation: Evaluation) -> None:
        parts = self.parts
        self.newest = evaluation
        step = self.state.step
        scalars = evaluation.scalars(parts.facts)
        improved = self._record_best(scalars)
        self.logger.scalars("val", step, scalars)
        write_json(
            self.directory.results, {"step": step, "max_steps": self.max_steps, **evaluation.results(parts.facts)}
        )
        if evaluation.examples:
            self._draw(evaluation.examples)
        log.info(
            "step %d: %s  val loss %.4f%s",
            step, evaluation.headline(parts.facts), scalars["loss"], "  (best so far)" if improved else "",
        )  # fmt: skip
        if improved:
            self._save(self.directory.best)
        self.save_last()

    def _record_best(self, scalars: dict[str, float | None]) -> bool:
        self.state.evaluated_step = self.state.step
        value, best = scalars[self.monitor], self.state.best_value
        if value is None or not math.isfinite(value):
            return False
        if best is not None and (value <= best if self.options.monitor_mode == "max" else value >= best):
            return False
        self.state.best_value, self.state.best_step = value, self.state.step
        return True

    def _draw(self, examples: list[Example]) -> None:
        picture = self.parts.draw(examples)
        self.logger.picture("val/examples", self.state.step, picture)
        self.directory.pictures.mkdir(exist_ok=True)
        Image.fromarray(picture).save(self.directory.pictures / f"step_{self.state.step:07d}.png")

    def _check_finite(self) -> None:
        """Before anything is logged or saved: weights that a NaN has reached must not replace good ones."""
        loss = self.window.mean_loss()
        if not math.isfinite(loss):
            raise NonFiniteError(_not_finite("the loss", loss, self.state.step))

    def save_last(self) -> None:
        self._save(self.directory.last)

    def _save(self, path: Path) -> None:
        self._check_finite()
        parts = self.parts
        contents = {
            **parts.saved,
            "model": parts.model.state_dict(),
            "criterion": parts.criterion.state_dict(),
            "optimizer": parts.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "state": self.state.to_dict(),
            "random": random_state(),
        }
        checkpoint.save(contents, path)

    def _restore(self, contents: dict[str, Any]) -> None:
        parts = self.parts
        parts.model.load_state_dict(contents["model"])
        # The optimizer's moments come from the file, its hyperparameters from the config, which may have changed.
        chosen = [{key: value for key, value in group.items() if key != "params"} for group in self._groups()]
        parts.optimizer.load_state_dict(contents["optimizer"])
        for group, hyperparameters in zip(self._groups(), chosen, strict=True):
            group.update(hyperparameters)
        if contents["scaler"]:
            self.scaler.load_state_dict(contents["scaler"])
        self.state = RunState(**contents["state"])
        restore_random_state(contents["random"])

    def _groups(self) -> list[dict[str, Any]]:
        return self.parts.optimizer.param_groups

    def close(self) -> None:
        self.logger.close()


def _not_finite(what: str, value: float, step: int) -> str:
    return f"{what} is {value} at step {step}; lower optimizer.lr, set trainer.clip_norm, or use trainer.precision=fp32"
