"""What a test does to a training inside the training's own process: watch it, end it, make it forget, fill its disk.

All of it replaces functions from outside; the engine knows nothing of it.
"""

import dataclasses
import functools
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from segtrain.commands import assemble
from segtrain.commands import train as command
from segtrain.engine import trainer as engine
from segtrain.engine.checkpoint_folder import CheckpointFolder
from segtrain.engine.trainer import Trainer
from tests.survival.disk import Disk

# Written into the pipe when a phase begins; the same in lower case when it ends. Phases may overlap.
TRAINING, SAVING, EVALUATING = b"T", b"S", b"E"
SLOW_DISK = 0.02  # seconds more to each fsync where phases are told, or a save is over before a signal can reach it


def prepare(plan: dict[str, Any]) -> None:
    """Readies this process for one training.

    Args:
        plan: any of
            phases: named pipe that is told the phase;
            run_dir: run directory, whose files are watched for the next four:
            record: file that gets every event as a line `step save event file`;
            crash: {step, save, event} or {index} at which the process is killed, see `Disk`;
            power: what a crash takes along besides the process, see `Disk`;
            fill: {step, event, leave, folder}: at that event the disk of `folder` is filled up to `leave` bytes;
                without `folder` writing a checkpoint only fails as if that were so;
            forget: the part of the state that a resumed training does not get back;
            scaler: true: the loss is scaled, as in fp16, whatever the precision;
            deterministic: true: of torch's algorithms those that give the same bits, on a GPU.
    """
    if "phases" in plan:
        _publish_phases(plan["phases"])
    if "run_dir" in plan:
        Disk(Path(plan["run_dir"]), plan).watch()
    if plan.get("deterministic"):
        torch.use_deterministic_algorithms(True, warn_only=True)
    if plan.get("scaler"):
        _scale_the_loss()
    if "forget" in plan:
        FORGET[plan["forget"]]()


def _publish_phases(pipe: str) -> None:
    descriptor = os.open(pipe, os.O_WRONLY)

    def during(phase: bytes, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            os.write(descriptor, phase)
            try:
                return function(*args, **kwargs)
            finally:
                os.write(descriptor, phase.lower())

        return wrapped

    sync = os.fsync
    os.fsync = lambda file: (time.sleep(SLOW_DISK), sync(file))[1]
    Trainer.train = during(TRAINING, Trainer.train)
    engine.evaluate = during(EVALUATING, engine.evaluate)
    CheckpointFolder._write = during(SAVING, CheckpointFolder._write)


def _scale_the_loss() -> None:
    """A scaler that has to work: it begins too large, so that first steps are skipped, and grows again soon."""
    choose = command.choose_hardware
    command.choose_hardware = lambda *args: dataclasses.replace(choose(*args), loss_scaling=True)
    torch.amp.GradScaler = functools.partial(torch.amp.GradScaler, init_scale=2.0**127, growth_interval=2)


def _forget_in_checkpoint(change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    restore = Trainer._restore
    Trainer._restore = lambda self, contents: restore(self, {**contents, **change(contents)})


def _forget_random() -> None:
    engine.restore_random_state = lambda state: None


def _forget_scaler() -> None:
    _forget_in_checkpoint(lambda contents: {"scaler": {}})


def _forget_ema_count() -> None:
    _forget_in_checkpoint(lambda contents: {"ema": {**contents["ema"], "updates": 0}})


def _forget_sampler() -> None:
    make = assemble.train_loader

    def from_the_start(dataset: Any, options: Any, seed: int, start_batch: int, *args: Any, **kwargs: Any) -> Any:
        return make(dataset, options, seed, 0, *args, **kwargs)

    assemble.train_loader = from_the_start


def _forget_schedule() -> None:
    restore = Trainer._restore

    def from_the_start(self: Trainer, contents: dict[str, Any]) -> None:
        restore(self, contents)
        set_rates, done = self.step.set_rates, self.state.step
        self.step.set_rates = lambda step: set_rates(step - done)

    Trainer._restore = from_the_start


FORGET = {
    "random": _forget_random,
    "scaler": _forget_scaler,
    "ema_count": _forget_ema_count,
    "sampler": _forget_sampler,
    "schedule": _forget_schedule,
}
