"""`segtrain train`: one run, new or gone on with."""

import logging
import shlex
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from segtrain import compose
from segtrain.build import Builder, saved_facts
from segtrain.compose import Job
from segtrain.data.loader import TrainLoader, eval_loader, train_loader
from segtrain.engine.checkpoint_folder import candidates, newest_sound
from segtrain.engine.dry_run import dry_run
from segtrain.engine.evaluate import check_monitor, monitor_name, try_criterion
from segtrain.engine.freezing import FreezeSchedule
from segtrain.engine.logger import attach_file, close_log, log_failure, log_to_terminal
from segtrain.engine.options import TrainerOptions
from segtrain.engine.parts import Parts
from segtrain.engine.precision import choose_hardware, seed_everything
from segtrain.engine.run_directory import (
    RunDirectory,
    changed_environment,
    environment,
    read_json,
    versions,
    write_json,
)
from segtrain.engine.step import TrainStep
from segtrain.engine.trainer import Trainer
from segtrain.engine.world import World
from segtrain.errors import CheckpointError, ConfigError, Stopped
from segtrain.explain import check_complete
from segtrain.inference import Predictor
from segtrain.load import build_criterion, check_no_weights, check_parts, check_weights
from segtrain.report.examples import draw_examples
from segtrain.saved_config import apply_overrides
from segtrain.types import Hardware

log = logging.getLogger("segtrain")

SECTIONS = (
    *("run", "model", "data", "augment.train", "augment.evaluate", "loss"),
    *("optimizer", "schedule", "inference", "trainer", "checkpoint"),
)
# With resume= the run's own config counts; these keys alone are the command's.
OWN_KEYS = ("resume", "debug")
# What a checkpoint must hold for a run to go on as if it had never stopped.
RESUMED_PARTS = ("config", "choices", "model", "criterion", "optimizer", "scaler", "state")


@dataclass(frozen=True)
class Start:
    """What a run begins with.

    Attributes:
        config: composed or saved, unresolved.
        choices: config group -> option, for names and messages.
        checkpoint: to go on from; None for a new run.
    """

    config: DictConfig
    choices: dict[str, str]
    checkpoint: "Saved | None" = None


@dataclass(frozen=True)
class Saved:
    """A checkpoint of a run that is gone on with: its file, its contents, its run directory."""

    path: Path
    contents: dict[str, Any]
    directory: RunDirectory


def run(argv: Sequence[str]) -> int:
    def task(job: Job) -> None:
        train(job, argv)

    resuming = any(word.startswith("resume=") and word not in ("resume=null", "resume=auto") for word in argv)
    return compose.run_command("train", argv, task, own_keys=OWN_KEYS if resuming else None)


def _start(job: Job) -> Start:
    """What the command line asks for: a new run, one to go on with, or (`auto`) whichever there is."""
    if not job.config.resume:
        return Start(job.config, job.choices)
    if job.config.resume != "auto":
        return _resumed(job)
    if job.config.run_dir is None:
        raise ConfigError("resume=auto: it goes on with the run in run_dir where there is one: set run_dir=FOLDER too")
    directory = RunDirectory(Path(job.config.run_dir))
    if not candidates(directory):
        return Start(job.config, job.choices)
    # The same command line as before describes the whole run, so that its config counts, not the stored one.
    return Start(job.config, job.choices, _newest(directory))


def _newest(directory: RunDirectory) -> Saved:
    path, contents = newest_sound(directory)
    check_parts(contents, path, *RESUMED_PARTS)
    return Saved(path, contents, directory)


def _resumed(job: Job) -> Start:
    """The run directory's own config with this command's overrides on top, and its newest checkpoint."""
    path = Path(job.config.resume)
    if not path.is_dir():
        raise CheckpointError(f"resume={path}: no such folder; name a run's folder, the one that holds config.yaml")
    directory = RunDirectory(path)
    if not directory.config.is_file():
        raise CheckpointError(f"resume={path}: {directory.config.name} is missing; is it a run's folder?")
    if any(key.lstrip("+") == "run_dir" for key, _ in job.saved_overrides):
        raise ConfigError(f"run_dir: a resumed run stays in {path}; leave run_dir out, or copy the folder")
    if not candidates(directory):
        raise CheckpointError(f"resume={path}: it holds no checkpoint, so there is nothing to go on from; start anew")
    newest = _newest(directory)
    try:
        saved = OmegaConf.load(directory.config)
    except OSError:  # what OmegaConf raises for a file that is neither a mapping nor a list
        saved = OmegaConf.create([])
    if not isinstance(saved, DictConfig) or "model" not in saved:
        raise ConfigError(f"{directory.config}: no config of a training")
    config, changed = apply_overrides(saved, job)
    check_no_weights(job)
    return Start(config, newest.contents["choices"] | changed, newest)


def train(job: Job, command: Sequence[str]) -> None:
    """Builds everything, then makes the run's folder, then trains.

    Raises:
        Stopped: a signal ended the training; everything is saved.
    """
    log_to_terminal()
    try:
        _train(_start(job), command)
    except Exception as error:
        log_failure(error)
        raise
    finally:
        close_log()


def _train(start: Start, command: Sequence[str]) -> None:
    config = start.config
    builder = Builder(config)
    check_complete(config)
    builder.check(*SECTIONS)
    options = builder.trainer_options()
    hardware = choose_hardware(options.device, options.precision, options.channels_last)
    if start.checkpoint is None and config.run_dir is not None:
        RunDirectory(Path(config.run_dir)).check_free(config.resume == "auto")  # before the data are read
    seed_everything(config.seed)
    parts, max_steps, summary = assemble(start, builder, options, hardware)

    if start.checkpoint:
        _check_resumable(start.checkpoint, parts, config, max_steps)
    if options.dry_run:
        _dry_run(parts, options, max_steps, hardware, summary)
        return
    directory = start.checkpoint.directory if start.checkpoint else _create_directory(start, command)
    with directory.locked():
        attach_file(directory.log)
        for line in (f"run directory: {directory.path}", *summary):
            log.info(line)
        if start.checkpoint:
            _go_on(start.checkpoint, config, command)
        contents = start.checkpoint.contents if start.checkpoint else None
        trainer = Trainer(parts, options, builder.checkpoint_options(), max_steps, hardware, directory, contents)
        try:
            trainer.train()
        finally:
            trainer.close()
    _say_goodbye(trainer)


def _dry_run(parts: Parts, options: TrainerOptions, max_steps: int, hardware: Hardware, summary: Sequence[str]) -> None:
    """Prints what the run would take; it begins with initial weights, also where a run would be gone on with."""
    for line in summary:
        log.info(line)
    step = TrainStep(parts, options, hardware, World.solo(hardware.device))
    if options.compile:
        step.compile()
    rows = dry_run(parts, options, max_steps, step).rows()
    width = max(len(name) for name, _ in rows)
    print("\n".join(f"{name:<{width}}  {text}" for name, text in rows))


def assemble(
    start: Start, builder: Builder, options: TrainerOptions, hardware: Hardware
) -> tuple[Parts, int, list[str]]:
    """Everything that the trainer is handed, the length of the run in steps, and what there is to say about it."""
    seed = start.config.seed
    loader_options, data_options = builder.loader_options(), builder.data_options()
    train_set = builder.dataset(data_options.train_split)
    val_set = builder.dataset(data_options.val_split)
    facts = builder.facts(train_set)
    augmented = train_set.with_transform(builder.augmentation("train", facts.ignore_index), seed)
    unaugmented = val_set.with_transform(builder.augmentation("evaluate", facts.ignore_index), seed)

    def train_batches(step: int) -> TrainLoader:
        first = step * options.accumulate
        return train_loader(augmented, loader_options, seed, first, pin_memory, overfit_batches=options.overfit_batches)

    pin_memory = hardware.device.type == "cuda"
    batches_per_epoch = train_batches(0).batches_per_epoch
    max_steps = options.steps(batches_per_epoch)

    model = builder.model(facts, pretrained=start.checkpoint is None)
    model = model.to(hardware.device).to(memory_format=hardware.memory_format)
    normalize = builder.normalize(facts).to(hardware.device)
    if start.checkpoint:
        path, contents = start.checkpoint.path, start.checkpoint.contents
        check_weights(model, contents, path)
        criterion = build_criterion(builder, facts, contents, path, train_set, model)
    else:
        criterion = builder.criterion(facts, train_set, model)
    criterion = criterion.to(hardware.device)
    check_monitor(monitor_name(options.monitor, facts), try_criterion(criterion, facts, hardware.device), facts)
    parts = Parts(
        model=model,
        normalize=normalize,
        criterion=criterion,
        optimizer=builder.optimizer(model),
        freezing=FreezeSchedule(model, options.freeze or {}),
        schedule=builder.schedule(max_steps),
        train_batches=train_batches,
        val_batches=eval_loader(unaugmented, loader_options, pin_memory),
        num_val_images=len(val_set),
        predictor=Predictor(model, normalize, builder.strategy(), hardware),
        facts=facts,
        saved={
            "config": OmegaConf.to_container(start.config, resolve=False),
            "choices": dict(start.choices),
            "facts": saved_facts(facts),
            "versions": versions(),
        },
        draw=lambda examples: draw_examples(examples, facts),
    )
    parameters = sum(parameter.numel() for parameter in model.parameters())
    epochs = max_steps * options.accumulate / batches_per_epoch
    summary = [
        f"data: {_choice(start, 'data')}, {len(train_set)} training and {len(val_set)} validation images",
        f"model: {_choice(start, 'model', 'model/backbone')}, {parameters / 1e6:.2f} M parameters",
        f"{max_steps} steps ({epochs:.1f} epochs) on {hardware.device} in {options.precision}",
    ]
    return parts, max_steps, summary


def _check_resumable(saved: Saved, parts: Parts, config: DictConfig, max_steps: int) -> None:
    """Raises CheckpointError or ConfigError where overrides make of the run another one than was saved."""
    contents = saved.contents
    used, groups = contents["config"]["optimizer"].get("_target_"), contents["optimizer"]["param_groups"]
    sizes = [[len(group["params"]) for group in some] for some in (groups, parts.optimizer.param_groups)]
    if used != config.optimizer.get("_target_") or sizes[0] != sizes[1]:
        raise CheckpointError(
            f"{saved.path}: holds the state of another optimizer ({used}, {len(groups)} parameter groups); "
            "leave out what changes optimizer._target_ or which parameters decay"
        )
    if contents["state"]["step"] > max_steps:
        raise ConfigError(
            f"trainer: the run would be {max_steps} steps long but has done {contents['state']['step']} already; "
            "raise trainer.max_steps"
        )


def _go_on(saved: Saved, config: DictConfig, command: Sequence[str]) -> None:
    """Makes the run's folder and its state say what this command changed, and warns where that spoils repeatability."""
    contents, directory = saved.contents, saved.directory
    if any(contents["config"]["trainer"].get(key) != config.trainer[key] for key in ("monitor", "monitor_mode")):
        # The best by another measure says nothing.
        contents["state"] |= {
            "best_value": None,
            "best_step": 0,
            "stale_evaluations": 0,
        }
    OmegaConf.save(config, directory.config)
    record, now = read_json(directory.environment), environment(["segtrain", "train", *command])
    earlier = [record, *record.get("resumed", [])][-1]
    write_json(directory.environment, {**record, "resumed": [*record.get("resumed", []), now]})
    changes = changed_environment(earlier, now)
    if changes:
        log.warning("going on, but not to the same bits as without the interruption: %s", "; ".join(changes))


def _create_directory(start: Start, command: Sequence[str]) -> RunDirectory:
    config = start.config
    directory = RunDirectory.create(
        Path(config.run_dir) if config.run_dir is not None else None,
        Path(config.output_root),
        _choice(start, "data"),
        _choice(start, "model"),
        again=config.resume == "auto",
    )
    OmegaConf.save(config, directory.config)  # unresolved: ${oc.env:TOKEN} must not be baked in
    write_json(directory.environment, environment(["segtrain", "train", *command]))
    return directory


def _choice(start: Start, *groups: str) -> str:
    return " over ".join(start.choices[group] for group in groups if group in start.choices) or "custom"


def _say_goodbye(trainer: Trainer) -> None:
    directory, state, monitor = trainer.directory, trainer.state, trainer.monitor
    if trainer.stopped_early:
        log.info("nothing better in %d evaluations: stopped at step %d", state.stale_evaluations, state.step)
    if not trainer.finished:
        log.info("interrupted at step %d of %d; everything is saved.", state.step, trainer.max_steps)
        log.info("go on: segtrain train resume=%s", shlex.quote(str(directory.path)))
        raise Stopped(trainer.stopped_by or signal.SIGINT)
    if trainer.newest is not None:
        log.info("\n%s\n", trainer.newest.table(trainer.parts.facts))
    if state.best_value is not None:
        log.info("best %s %.4f at step %d: %s", monitor, state.best_value, state.best_step, directory.best)
    if directory.pictures.is_dir():
        log.info("pictures of predictions: %s", directory.pictures)
    newest = directory.best if directory.best.is_file() else directory.last
    log.info("evaluate: segtrain evaluate checkpoint=%s", shlex.quote(str(newest)))
