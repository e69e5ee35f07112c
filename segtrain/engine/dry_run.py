"""`trainer.dry_run`: a few measured steps and one batch of an evaluation; what the whole run would take."""

import itertools
import time
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from torch import Tensor

from segtrain.distributed.parallel import whole
from segtrain.engine.ema import EMA
from segtrain.engine.evaluate import evaluate
from segtrain.engine.memory import step_or_explain
from segtrain.engine.memory_use import cuda_peak, peak_resident, reset_peaks, resident
from segtrain.engine.options import TrainerOptions
from segtrain.engine.parts import Parts
from segtrain.engine.progress import format_seconds
from segtrain.engine.step import TrainStep
from segtrain.types import Batch, Hardware, ModelOutput

# The first steps are slower than those that follow: kernels are chosen, memory is allocated, workers start.
WARMUP_STEPS, MEASURED_STEPS = 2, 5


@dataclass(frozen=True)
class DryRun:
    """What was found.

    Attributes:
        images: shape of a batch, uint8.
        labels: likewise.
        logits: of that batch.
        aux: of its auxiliary logits, by head.
        parameters: number that learn from the first step on, number that are frozen then.
        max_steps: length of the run.
        step_seconds: of one update, data included; median of the measured steps.
        data_share: of that time spent waiting for data, 0..1.
        evaluation_seconds: estimate of one evaluation.
        evaluations: how many the run makes.
        peak_bytes: the most memory used in the measured steps.
        grown_bytes: of that, what came on top of what the process used before the first step; None on CUDA.
        checkpoint_bytes: of the tensors in one checkpoint.
    """

    images: tuple[int, ...]
    labels: tuple[int, ...]
    logits: tuple[int, ...]
    aux: dict[str, tuple[int, ...]]
    parameters: tuple[int, int]
    max_steps: int
    step_seconds: float
    data_share: float
    evaluation_seconds: float
    evaluations: int
    peak_bytes: int | None
    grown_bytes: int | None
    checkpoint_bytes: int

    def rows(self) -> list[tuple[str, str]]:
        """(what, value) as text."""
        learning, frozen = self.parameters
        whole = self.max_steps * self.step_seconds + self.evaluations * self.evaluation_seconds
        shapes = {"images": self.images, "labels": self.labels, "logits": self.logits}
        shapes |= {f"aux {name}": shape for name, shape in self.aux.items()}
        rows = [(name, " x ".join(map(str, shape))) for name, shape in shapes.items()]
        rows += [
            ("parameters", f"{learning:,} learn, {frozen:,} frozen"),
            ("peak memory", self._memory()),
            ("step", f"{self.step_seconds:.3f} s, {self.data_share:.0%} of it waiting for data"),
            ("evaluation", f"about {format_seconds(self.evaluation_seconds)}"),
            (
                "whole run",
                f"about {format_seconds(whole)}: {self.max_steps} steps, {self.evaluations} evaluations, and saving",
            ),
            ("checkpoint", f"about {self.checkpoint_bytes / 2**20:,.1f} MiB"),
        ]
        return rows

    def _memory(self) -> str:
        if self.peak_bytes is None:
            return "not known on this system"
        peak = f"{self.peak_bytes / 2**20:,.0f} MiB"
        if self.grown_bytes is None:
            return f"{peak} allocated on the CUDA device"
        return f"{peak} resident, {self.grown_bytes / 2**20:,.0f} MiB of it since before the first step"


def dry_run(parts: Parts, options: TrainerOptions, max_steps: int, step: TrainStep) -> DryRun:
    """Trains a few steps and evaluates one batch; the weights are worthless afterwards, and nothing is written.

    Args:
        parts: of the run.
        options: of the loop.
        max_steps: length of the run.
        step: over `parts`. Of several processes each measures its own part; all must call this.

    Raises:
        DataError: a sample cannot be read.
        NonFiniteError: the loss or a gradient is no number.
        MachineError: out of memory.
    """
    hardware = step.hardware
    parts.freezing.apply(0)
    step.distribute()
    learning = sum(x.numel() for x in parts.model.parameters() if x.requires_grad)
    total = sum(x.numel() for x in parts.model.parameters())
    batches = iter(parts.train_batches(0))
    used_before = resident()
    reset_peaks(hardware.device)
    ema = None if options.ema_decay is None else EMA(parts.model, options.ema_decay, options.ema_warmup)
    seconds: list[float] = []
    waited: list[float] = []
    for number in range(min(WARMUP_STEPS + MEASURED_STEPS, max_steps)):
        started = time.perf_counter()
        taken = list(itertools.islice(batches, options.accumulate))
        waited.append(time.perf_counter() - started)
        step_or_explain(step, taken, number)
        if ema is not None:
            ema.update()
        _finish(hardware)
        seconds.append(time.perf_counter() - started)
    first = WARMUP_STEPS if len(seconds) > WARMUP_STEPS else 0
    on_cuda = cuda_peak(hardware.device)
    peak = peak_resident() if on_cuda is None else on_cuda
    grown = None if on_cuda is not None or peak is None or used_before is None else max(peak - used_before, 0)
    output = _output(step, taken[0])
    with whole(parts.model, step.world):
        times = 2 if ema and options.ema_evaluate_raw else 1
        evaluation_seconds = times * _evaluation_seconds(parts, hardware) / step.world.size
    return DryRun(
        images=tuple(taken[0].images.shape),
        labels=tuple(taken[0].labels.shape),
        logits=tuple(output.logits.shape),
        aux={name: tuple(logits.shape) for name, logits in output.aux.items()},
        parameters=(learning, total - learning),
        max_steps=max_steps,
        step_seconds=median(seconds[first:]),
        data_share=sum(waited[first:]) / sum(seconds[first:]),
        evaluation_seconds=evaluation_seconds,
        evaluations=1 if options.evaluate_every is None else -(-max_steps // options.evaluate_every),
        peak_bytes=peak,
        grown_bytes=grown,
        checkpoint_bytes=_checkpoint_bytes(parts, options),
    )


def _output(step: TrainStep, batch: Batch) -> ModelOutput:
    """What the model makes of a batch in training; without a graph, so that it costs little memory."""
    images, _ = step.to_device(batch)
    inputs = step.parts.normalize(images).contiguous(memory_format=step.hardware.memory_format)
    with torch.no_grad(), step.hardware.autocast():
        output: ModelOutput = step.parts.model(inputs)
    return output


def _evaluation_seconds(parts: Parts, hardware: Hardware) -> float:
    """Of a whole evaluation, estimated from its first batch, which is evaluated twice: the first time is slower."""
    group: list[Batch] = next((group for group in parts.val_batches if group), [])
    if not group:
        return 0.0  # a process beyond the number of images; the main one is not
    images = sum(len(batch.names) for batch in group)
    taken = []
    for _ in range(2):
        started = time.perf_counter()
        evaluate(parts.predictor, parts.criterion, [group], parts.facts, images, 0)
        _finish(hardware)
        taken.append(time.perf_counter() - started)
    return taken[-1] / images * parts.num_val_images


def _checkpoint_bytes(parts: Parts, options: TrainerOptions) -> int:
    model = _tensor_bytes(parts.model.state_dict())
    averages = 0 if options.ema_decay is None else model
    return model + averages + _tensor_bytes(parts.optimizer.state_dict()) + _tensor_bytes(parts.criterion.state_dict())


def _tensor_bytes(value: Any) -> int:
    if isinstance(value, Tensor):
        return value.nbytes
    if isinstance(value, dict):
        return sum(map(_tensor_bytes, value.values()))
    return sum(map(_tensor_bytes, value)) if isinstance(value, list | tuple) else 0


def _finish(hardware: Hardware) -> None:
    if hardware.device.type == "cuda":
        torch.cuda.synchronize(hardware.device)
