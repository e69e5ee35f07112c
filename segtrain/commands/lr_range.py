"""`segtrain lr_range`: which learning rates a model can train with, found by trying growing ones."""

import datetime
import logging
import secrets
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from segtrain import compose
from segtrain.build import Builder
from segtrain.commands.assemble import SECTIONS, Start, assemble
from segtrain.compose import Job
from segtrain.distributed.world import World
from segtrain.engine.logger import logged_to_terminal
from segtrain.engine.precision import choose_hardware, seed_everything
from segtrain.engine.rate_range import RangeOptions, RangeResult, range_test
from segtrain.engine.run_directory import check_output, write_json
from segtrain.engine.step import TrainStep
from segtrain.errors import ConfigError
from segtrain.explain import check_complete
from segtrain.options import read_options
from segtrain.report.curves import save_range_curve

log = logging.getLogger("segtrain")

OWN_KEYS = ("min_lr", "max_lr", "steps", "smoothing", "diverged", "output", "output_root", "debug", "optimizer.lr")


@dataclass(frozen=True)
class OutputOptions:
    """Where the results go; `configs/lr_range.yaml` and `configs/train.yaml` say what each key does."""

    output: str | None
    output_root: str

    def folder(self) -> Path:
        """The folder named, or a new name in `output_root`."""
        if self.output is not None:
            return Path(self.output)
        stamp = datetime.datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
        return Path(self.output_root) / "lr_range" / f"{stamp}-{secrets.token_hex(2)}"


def run(argv: Sequence[str]) -> int:
    return compose.run_command("lr_range", argv, task)


def task(job: Job) -> None:
    with logged_to_terminal():
        _test(job)


def _test(job: Job) -> None:
    config = job.config
    if config.resume is not None or config.run_dir is not None:
        raise ConfigError("lr_range begins with initial weights and makes no run: leave resume and run_dir out")
    options = read_options(config, RangeOptions)
    folder = read_options(config, OutputOptions).folder()
    check_output(folder)
    check_complete(config)
    builder = Builder(config)
    builder.check(*SECTIONS)
    lr = builder.section("optimizer")["lr"]
    if not lr > 0:
        raise ConfigError(f"optimizer.lr={lr} must be positive: the groups' rates are multiples of it")
    trainer = builder.trainer_options()
    hardware = choose_hardware(trainer.device, trainer.precision, trainer.channels_last)
    seed_everything(config.seed)
    parts, _, summary = assemble(Start(config, job.choices), builder, trainer, hardware)
    for line in summary[:2]:
        log.info(line)
    # Every group's rate is a multiple of optimizer.lr, the backbone's say; the multiples stay.
    parts = replace(parts, schedule=lambda step: options.rate(step) / lr)
    parts.freezing.apply(0)
    step = TrainStep(parts, trainer, hardware, World.solo(hardware.device))
    result = range_test(step, parts.train_batches(0), trainer.accumulate, options)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "lr_range.json", result.as_dict())
    marks = {"steepest": result.steepest, "minimum / 10": result.minimum and result.minimum / 10}
    shown = {name: rate for name, rate in marks.items() if rate is not None}
    save_range_curve(folder / "lr_range.png", result.rates, result.losses, result.smoothed, shown)
    _report(job, options, result, folder)


def _report(job: Job, options: RangeOptions, result: RangeResult, folder: Path) -> None:
    end = "where the loss exploded" if result.diverged else "the last; the loss did not explode"
    log.info("%d steps, rates %.1e to %.1e, %s", len(result.rates), result.rates[0], result.rates[-1], end)
    log.info("curve: %s", folder / "lr_range.png")
    log.info("numbers: %s", folder / "lr_range.json")
    if result.suggested is None:
        log.warning(
            "the loss never fell: no rate to suggest; try min_lr below %.0e, more steps, or less smoothing",
            options.min_lr,
        )
        return
    print(f"falls steepest at {result.steepest:.1e}, lowest at {result.minimum:.1e}")
    if not result.diverged:
        print(f"the loss did not explode up to {options.max_lr:.0e}: a larger max_lr may suggest a larger rate")
    print(f"suggested: optimizer.lr={result.suggested:.1e}, the smaller of the steepest and a tenth of the lowest")
    print(f"train with it: {_command(job, result.suggested)}")


def _command(job: Job, rate: float) -> str:
    kept = [word for word in job.overrides if word.partition("=")[0].lstrip("+") not in OWN_KEYS]
    config_dir = ["--config-dir", str(job.config_dir)] if job.config_dir else []
    return shlex.join(["segtrain", "train", *config_dir, *kept, f"optimizer.lr={rate:.1e}"])
