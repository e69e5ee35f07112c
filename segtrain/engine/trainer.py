"""The training loop: load, forward, backward, step, log, evaluate, save, as plain calls."""

import contextlib
import logging
import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from PIL import Image

from segtrain.distributed.interrupt import Interrupt
from segtrain.distributed.parallel import gathered, model_part, optimizer_part, whole
from segtrain.distributed.world import SharedFailureError, World
from segtrain.engine.checkpoint_folder import CheckpointFolder, CheckpointOptions
from segtrain.engine.ema import EMA
from segtrain.engine.evaluate import Evaluation, evaluate, monitor_name
from segtrain.engine.logger import NoLogger, RunLogger
from segtrain.engine.memory import evaluation_fits, explain_out_of_memory, is_out_of_memory
from segtrain.engine.memory_use import memory_scalars
from segtrain.engine.nonfinite import save_evidence
from segtrain.engine.options import TrainerOptions
from segtrain.engine.parts import Parts
from segtrain.engine.precision import random_state, restore_random_state
from segtrain.engine.progress import Progress
from segtrain.engine.run_directory import RunDirectory, write_json
from segtrain.engine.state import RunState
from segtrain.engine.step import StepResult, TrainStep
from segtrain.engine.window import Window
from segtrain.errors import DataError, MachineError, NonFiniteError
from segtrain.types import Batch, Example, Hardware

log = logging.getLogger("segtrain")


class Trainer:
    """Trains, evaluates and saves one run.

    `train()` returns when `max_steps` updates are done, when nothing has got better for `patience` evaluations, or when
    a signal came (`stopped_by`); `last.pt` then holds the newest state. The criterion is expected to have its state
    already when a run is resumed.

    Args:
        parts: what varies between runs.
        options: of the loop.
        saving: which checkpoints are kept, and how they are written.
        max_steps: the length of the run in updates.
        hardware: device, number format, memory layout.
        directory: of the run; only the main rank writes to it.
        resume_from: contents of the checkpoint to go on from; None for a new run.
        world: the processes that train together; None: this one alone.
    """

    def __init__(
        self,
        parts: Parts,
        options: TrainerOptions,
        saving: CheckpointOptions,
        max_steps: int,
        hardware: Hardware,
        directory: RunDirectory,
        resume_from: dict[str, Any] | None,
        world: World | None = None,
    ) -> None:
        self.parts = parts
        self.options = options
        self.max_steps = max_steps
        self.hardware = hardware
        self.directory = directory
        self.world = world or World.solo(hardware.device)
        self.monitor = monitor_name(options.monitor, parts.facts)
        self.state = RunState()
        self.step = TrainStep(parts, options, hardware, self.world)
        self.ema = None if options.ema_decay is None else EMA(parts.model, options.ema_decay, options.ema_warmup)
        self.window = Window(hardware.device)
        self.newest: Evaluation | None = None
        self.stopped_by: int | None = None
        self._saved: RunState | None = None
        if resume_from is not None:
            self._restore(resume_from)
        resumed = (self.state.step, resume_from["kept"]) if resume_from is not None and self.world.is_main else None
        self.checkpoints = CheckpointFolder(directory, saving, resumed)
        self.logger = self._logger() if self.world.is_main else NoLogger()
        if options.compile:
            self.step.compile()
        self.step.distribute()

    def _logger(self) -> RunLogger:
        step = self.state.step
        resumed = step if self._saved else None
        return RunLogger(self.directory, resumed, evaluated=self.state.evaluated_step == step)

    def train(self) -> RunState:
        """Runs to the end, or to the step in which a signal came; `finished` says which.

        Raises:
            DataError: a sample cannot be read; the steps done so far are saved first, as they are for a lost worker.
            NonFiniteError: the loss or a gradient is no longer a number; batch and state are saved in `nonfinite/`.
            MachineError: out of memory, a full disk, a lost worker, a lost rank.
        """
        batches = iter(self.parts.train_batches(self.state.step))
        progress = Progress(
            "train", self.max_steps, initial=self.state.step, unit="step", line_every=self.options.log_every,
            silent=not self.world.is_main,
        )  # fmt: skip
        with Interrupt(alone=self.world.size == 1) as interrupt, progress:
            try:
                self._loop(batches, interrupt, progress)
                self.save_last()
            except BaseException:
                self._finish_saving_in_passing()
                raise
            self.checkpoints.finish()
            self.world.barrier()  # no rank ends before all is saved
        return self.state

    def _finish_saving_in_passing(self) -> None:
        """Waits for a save in the background when something else ends the run, which is what the user must know."""
        try:
            self.checkpoints.finish()
        except MachineError as error:
            log.error("%s", error)

    def _loop(self, batches: Iterator[Batch], interrupt: Interrupt, progress: Progress) -> None:
        while not self._told_to_stop(interrupt):
            if self._evaluation_due() and not self.evaluate(interrupt):
                return
            if self.finished:
                return
            self.train_step(batches)
            if self.state.step % self.options.log_every == 0 or self.state.step == self.max_steps:
                self.log_window(progress)
            progress.advance()
            if self.options.save_every and self.state.step % self.options.save_every == 0:
                self.save_last()

    def _told_to_stop(self, interrupt: Interrupt) -> bool:
        """Whether a signal has reached any rank; all ask together and so stop together."""
        self.stopped_by = self.world.largest(interrupt.signal or 0) or None
        return self.stopped_by is not None

    @property
    def finished(self) -> bool:
        return (self.state.step >= self.max_steps or self.stopped_early) and not self._evaluation_due()

    @property
    def stopped_early(self) -> bool:
        """Whether `patience` evaluations in a row have found nothing better."""
        patience = self.options.patience
        return patience is not None and self.state.stale_evaluations >= patience

    def train_step(self, batches: Iterator[Batch]) -> None:
        """One update over `accumulate` batches of every rank."""
        if self.parts.freezing.apply(self.state.step):
            log.info("step %d: %s", self.state.step, self.parts.freezing.describe(self.state.step))
            self.step.distribute()
        with self._progress_kept(), self.window.waiting_for_data():
            step_batches = self._next(batches)
        before = random_state()
        try:
            result = self.step(step_batches, self.state.step)
        except NonFiniteError as error:
            evidence = self._contents() | {"random": [before]}
            raise save_evidence(error, self.directory, self.world, self.step.suspect, evidence, step_batches) from error
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise MachineError(explain_out_of_memory(error, self.step, step_batches[0])) from error
            raise
        if self.ema is not None and not result.skipped:
            self.ema.update()
        self.window.add(result.loss, result.terms, result.gradient_norm, result.images)
        self.state.step += 1
        self._count_skipped(result)

    def _next(self, batches: Iterator[Batch]) -> list[Batch]:
        """All of a step's batches before any is used: a bad sample leaves no half-done step behind, on any rank."""
        step_batches: list[Batch] = []
        failure: Exception | None = None
        try:
            step_batches = [next(batches) for _ in range(self.options.accumulate)]
        except (DataError, MachineError) as error:
            failure = error
        self.world.share_failure(failure, "read its data")
        return step_batches

    @contextlib.contextmanager
    def _progress_kept(self) -> Iterator[None]:
        """Where data cannot be read or a worker is lost, between two steps, the run ends but loses none of them.

        A rank alone cannot save: saving takes them all.
        """
        try:
            yield
        except SharedFailureError as error:
            if self.state.step > 0:
                self.save_last()
                self.checkpoints.finish()
                self.world.barrier()  # no rank ends before all is saved, or whoever started them ends the others
            raise error.reason from error.reason.__cause__
        except (DataError, MachineError):
            if self.state.step > 0 and self.world.size == 1:
                self.save_last()
            raise

    def _count_skipped(self, result: StepResult) -> None:
        state, most = self.state, self.options.max_skipped_steps
        state.skipped_steps += result.skipped
        state.skipped_in_a_row = state.skipped_in_a_row + 1 if result.skipped else 0
        if state.skipped_in_a_row > most:
            raise NonFiniteError(
                f"trainer.max_skipped_steps={most}: gradients overflowed in {state.skipped_in_a_row} updates in a row "
                f"up to step {state.step}, whatever the loss scale; use trainer.precision=bf16, or lower optimizer.lr"
            )

    def log_window(self, progress: Progress) -> None:
        """Logs the means since the last call."""
        values = self.window.means()
        groups = self.parts.optimizer.param_groups
        values |= {f"lr/{group['name']}": group["lr"] for group in groups}
        if self.hardware.loss_scaling:
            values |= {"loss_scale": self.step.scaler.get_scale(), "skipped_steps": self.state.skipped_steps}
        values |= memory_scalars(self.hardware.device)
        self.logger.scalars("train", self.state.step, values)
        progress.show(
            f"loss {values['loss']:.4f}  lr {max(group['lr'] for group in groups):.2e}  "
            f"{values['images_per_second']:.1f} img/s  data {values['data_share']:.0%}"
        )
        self.window = Window(self.hardware.device)

    def _evaluation_due(self) -> bool:
        step = self.state.step
        every = self.options.evaluate_every
        on_schedule = step > 0 and (step == self.max_steps or (every is not None and step % every == 0))
        return on_schedule and self.state.evaluated_step != step

    def evaluate(self, interrupt: Interrupt) -> bool:
        """Evaluates, records the best, and saves. Leaves all as it was and returns False if interrupted.

        With averaged weights it is they that are evaluated, and the raw ones beside them if so told.
        """
        self.parts.optimizer.zero_grad(set_to_none=True)  # the last step's, whose memory an evaluation can use
        raw = None
        with self.window.pause():
            with self._progress_kept():
                if self.ema is not None and self.options.ema_evaluate_raw:
                    raw = self._evaluated(interrupt)
                    if raw is None:
                        return False
                with self.ema.in_model() if self.ema else contextlib.nullcontext():
                    newest = self._evaluated(interrupt)
            if newest is None:
                return False
            if raw is not None:
                self.logger.scalars("val_raw", self.state.step, raw.scalars(self.parts.facts))
            self._record(newest)
        return True

    def _evaluated(self, interrupt: Interrupt) -> Evaluation | None:
        parts = self.parts
        with whole(parts.model, self.world), evaluation_fits():
            return evaluate(
                parts.predictor, parts.criterion, parts.val_batches, parts.facts, parts.num_val_images,
                self.options.pictures, should_stop=lambda: self._told_to_stop(interrupt), world=self.world,
            )  # fmt: skip

    def _record(self, evaluation: Evaluation) -> None:
        parts = self.parts
        self.newest = evaluation
        step = self.state.step
        scalars = evaluation.scalars(parts.facts)
        improved = self._record_best(scalars)
        self.logger.scalars("val", step, scalars)
        if self.world.is_main:
            results = {"step": step, "max_steps": self.max_steps, **evaluation.results(parts.facts)}
            write_json(self.directory.results, results)
        if evaluation.examples:
            self._draw(evaluation.examples)
        log.info(
            "step %d: %s  val loss %.4f%s",
            step, evaluation.headline(parts.facts), scalars["loss"], "  (best so far)" if improved else "",
        )  # fmt: skip
        self._save(best=improved)

    def _record_best(self, scalars: dict[str, float | None]) -> bool:
        state = self.state
        state.evaluated_step = state.step
        state.stale_evaluations += 1
        value = scalars[self.monitor]
        if value is None or not math.isfinite(value):
            return False
        if self._gain(value, state.counted_value) > self.options.min_gain:
            state.counted_value, state.stale_evaluations = value, 0
        if self._gain(value, state.best_value) <= 0:
            return False
        state.best_value, state.best_step = value, state.step
        return True

    def _gain(self, value: float, earlier: float | None) -> float:
        """By how much the monitor is better than an earlier one."""
        if earlier is None:
            return math.inf
        return value - earlier if self.options.monitor_mode == "max" else earlier - value

    def _draw(self, examples: list[Example]) -> None:
        picture = self.parts.draw(examples)
        self.logger.picture("val/examples", self.state.step, picture)
        self.directory.pictures.mkdir(exist_ok=True)
        Image.fromarray(picture).save(self.directory.pictures / f"step_{self.state.step:07d}.png")

    def save_last(self) -> None:
        """Saves, unless the present state already is."""
        if self._saved != self.state:
            self._save(best=False)

    def _save(self, best: bool) -> None:
        contents = self._contents()
        if self.world.is_main:
            self.logger.sync()
            self.checkpoints.save(contents, self.state.step, best)
        self._saved = replace(self.state)

    def _contents(self) -> dict[str, Any]:
        """Of a checkpoint; all ranks call it, because each holds a part of it."""
        parts = self.parts
        return {
            **parts.saved,
            "model": gathered(parts.model.state_dict()),
            "criterion": parts.criterion.state_dict(),
            "optimizer": gathered(parts.optimizer.state_dict()),
            "scaler": self.step.scaler.state_dict(),
            "ema": None if self.ema is None else gathered(self.ema.state_dict()),
            "state": self.state.to_dict(),
            "random": self.world.gather(random_state()),
            "window": self.window.state_dict(),
        }

    def _restore(self, contents: dict[str, Any]) -> None:
        parts = self.parts
        parts.model.load_state_dict(model_part(contents["model"], parts.model))
        # The optimizer's moments come from the file, its hyperparameters from the config, which may have changed.
        groups = parts.optimizer.param_groups
        chosen = [{key: value for key, value in group.items() if key != "params"} for group in groups]
        parts.optimizer.load_state_dict(optimizer_part(contents["optimizer"], parts.optimizer))
        for group, hyperparameters in zip(parts.optimizer.param_groups, chosen, strict=True):
            group.update(hyperparameters)
        if contents["scaler"]:
            self.step.scaler.load_state_dict(contents["scaler"])
        if self.ema is not None:
            # A run that had none goes on with averages that begin at its weights.
            averages = contents["ema"] or {"model": contents["model"], "updates": 0}
            self.ema.load_state_dict({**averages, "model": model_part(averages["model"], parts.model)})
        self.state = RunState(**contents["state"])
        self._saved = replace(self.state)
        if self.state.step > 0:
            self.step.set_rates(self.state.step - 1)  # so that a save before the next update repeats the last one's
        self.window = Window(self.hardware.device, contents["window"])
        if len(contents["random"]) == self.world.size:  # of another number of ranks there is none for each
            restore_random_state(contents["random"][self.world.rank])

    def close(self) -> None:
        self.logger.close()
