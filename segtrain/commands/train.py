"""`segtrain train`: one run, new or gone on with."""

import contextlib
import logging
import os
import shlex
import signal
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from omegaconf import DictConfig, OmegaConf

from segtrain import compose
from segtrain.build import Builder, saved_facts
from segtrain.commands.ranks import run_as_rank, train_as_rank
from segtrain.commands.start import Saved, Start, start_of
from segtrain.compose import Job
from segtrain.data.loader import TrainLoader, eval_loader, train_loader
from segtrain.engine.evaluate import check_monitor, monitor_name, try_criterion
from segtrain.engine.freezing import FreezeSchedule
from segtrain.engine.logger import attach_file, close_log, log_failure, log_to_terminal
from segtrain.engine.options import TrainerOptions
from segtrain.engine.parallel import shard
from segtrain.engine.parts import Parts
from segtrain.engine.place import place_in
from segtrain.engine.precision import choose_hardware, count_devices, seed_everything
from segtrain.engine.run_directory import (
    RunDirectory,
    changed_environment,
    environment,
    read_json,
    versions,
    write_json,
)
from segtrain.engine.trainer import Trainer
from segtrain.engine.world import World
from segtrain.errors import CheckpointError, ConfigError, Stopped
from segtrain.explain import check_complete
from segtrain.inference import Predictor
from segtrain.load import build_criterion, check_weights
from segtrain.report.examples import draw_examples
from segtrain.types import Hardware, Shard

log = logging.getLogger("segtrain")

SECTIONS = (
    *("run", "model", "data", "augment.train", "augment.evaluate", "loss"),
    *("optimizer", "schedule", "inference", "trainer", "checkpoint"),
)
# With resume= the run's own config counts; these keys alone are the command's.
OWN_KEYS = ("resume", "debug")


def run(argv: Sequence[str]) -> int:
    place = place_in(os.environ)
    if place is not None and place.size > 1:
        return run_as_rank(place, argv, _run_jobs, _begin, _train)

    def task(job: Job) -> None:
        train(job, argv)

    return _run_jobs(argv, task)


def _run_jobs(argv: Sequence[str], task: Callable[[Job], None]) -> int:
    resuming = any(word.startswith("resume=") and word not in ("resume=null", "resume=auto") for word in argv)
    return compose.run_command("train", argv, task, own_keys=OWN_KEYS if resuming else None)


def train(job: Job, command: Sequence[str]) -> None:
    """Trains in this process, or in as many as `trainer.devices` says, which it starts.

    Raises:
        Stopped: a signal ended the training; everything is saved.
    """
    log_to_terminal()
    try:
        start = _begin(job)
        options = Builder(start.config).trainer_options()
        count = count_devices(options.device, options.devices)
        if count == 1:
            _train(start, command, None)
        else:
            from segtrain.engine.launch import launch  # torch's launcher, which few runs need

            launch(count, _train_in_new_process, start.handed_over(), command)
    except Exception as error:
        log_failure(error)
        raise
    finally:
        close_log()


def _train_in_new_process(start: Start, command: Sequence[str]) -> None:
    place = place_in(os.environ)
    assert place is not None
    train_as_rank(place, None, start.received(), command, _train)


def _begin(job: Job) -> Start:
    """What to begin with; raises what is wrong with the config, before anything is built or any process started."""
    start = start_of(job)
    check_complete(start.config)
    Builder(start.config).check(*SECTIONS)
    if start.checkpoint is None and start.config.run_dir is not None:
        RunDirectory(Path(start.config.run_dir)).check_free(start.config.resume == "auto")  # before data are read
    return start


def _train(start: Start, command: Sequence[str], world: World | None) -> None:
    """Builds everything, then makes the run's folder, then trains; with the other processes of `world`, if any."""
    config = start.config
    builder = Builder(config)
    options = builder.trainer_options()
    device = options.device if world is None else str(world.device)
    hardware = choose_hardware(device, options.precision, options.channels_last)
    world = world or World.solo(hardware.device)
    seed_everything(config.seed)
    parts, max_steps, summary = assemble(start, builder, options, hardware, world)
    if world.rank > 0:
        seed_everything((config.seed + world.rank) % 2**63)  # dropout differs between ranks, initial weights do not

    if start.checkpoint:
        _check_resumable(start.checkpoint, parts, config, max_steps)
    directory = start.checkpoint.directory if start.checkpoint else _create_directory(start, command, world)
    with directory.locked() if world.is_main else contextlib.nullcontext():
        attach_file(directory.log, world.rank)
        for line in (f"run directory: {directory.path}", *summary):
            log.info(line)
        if start.checkpoint:
            _go_on(start.checkpoint, config, command, world)
        contents = start.checkpoint.contents if start.checkpoint else None
        trainer = Trainer(parts, options, builder.checkpoint_options(), max_steps, hardware, directory, contents, world)
        try:
            trainer.train()
        finally:
            trainer.close()
    _say_goodbye(trainer)


def assemble(
    start: Start, builder: Builder, options: TrainerOptions, hardware: Hardware, world: World | None = None
) -> tuple[Parts, int, list[str]]:
    """Everything that the trainer is handed, the length of the run in steps, and what there is to say about it."""
    world = world or World.solo(hardware.device)
    seed = start.config.seed
    loader_options, data_options = builder.loader_options(), builder.data_options()
    train_set = builder.dataset(data_options.train_split)
    val_set = builder.dataset(data_options.val_split)
    facts = builder.facts(train_set)
    augmented = train_set.with_transform(builder.augmentation("train", facts.ignore_index), seed)
    unaugmented = val_set.with_transform(builder.augmentation("evaluate", facts.ignore_index), seed)

    def train_batches(step: int) -> TrainLoader:
        first = step * options.accumulate
        return train_loader(augmented, loader_options, seed, first, pin_memory, part, options.overfit_batches)

    part = Shard(world.rank, world.size)
    pin_memory = hardware.device.type == "cuda"
    batches_per_epoch = train_batches(0).batches_per_epoch
    max_steps = options.steps(batches_per_epoch)

    with world.main_first():
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
    if world.size > 1 and options.parallel == "fsdp":
        shard(model, world, torch.zeros(1, facts.in_channels, 64, 64, device=hardware.device))
    parts = Parts(
        model=model,
        normalize=normalize,
        criterion=criterion,
        optimizer=builder.optimizer(model),
        freezing=FreezeSchedule(model, options.freeze or {}),
        schedule=builder.schedule(max_steps),
        train_batches=train_batches,
        val_batches=eval_loader(unaugmented, loader_options, pin_memory, part),
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
        f"{max_steps} steps ({epochs:.1f} epochs) on {_devices(hardware, options, world)} in {options.precision}",
    ]
    return parts, max_steps, summary


def _devices(hardware: Hardware, options: TrainerOptions, world: World) -> str:
    if world.size == 1:
        return str(hardware.device)
    return f"{world.size} processes ({hardware.device.type}, {options.parallel})"


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


def _go_on(saved: Saved, config: DictConfig, command: Sequence[str], world: World) -> None:
    """Makes the run's folder and its state say what this command changed, and warns where that spoils repeatability."""
    contents, directory = saved.contents, saved.directory
    if any(contents["config"]["trainer"].get(key) != config.trainer[key] for key in ("monitor", "monitor_mode")):
        # The best by another measure says nothing.
        contents["state"] |= {
            "best_value": None,
            "best_step": 0,
            "stale_evaluations": 0,
        }
    if not world.is_main:
        return
    OmegaConf.save(config, directory.config)
    record, now = read_json(directory.environment), environment(["segtrain", "train", *command], world.size)
    earlier = [record, *record.get("resumed", [])][-1]
    write_json(directory.environment, {**record, "resumed": [*record.get("resumed", []), now]})
    changes = changed_environment(earlier, now)
    if changes:
        log.warning("going on, but not to the same bits as without the interruption: %s", "; ".join(changes))


def _create_directory(start: Start, command: Sequence[str], world: World) -> RunDirectory:
    """Made by the main process; the others learn its name."""
    config = start.config
    if not world.is_main:
        return RunDirectory(world.broadcast(None))
    directory = RunDirectory.create(
        Path(config.run_dir) if config.run_dir is not None else None,
        Path(config.output_root),
        _choice(start, "data"),
        _choice(start, "model"),
        again=config.resume == "auto",
    )
    OmegaConf.save(config, directory.config)  # unresolved: ${oc.env:TOKEN} must not be baked in
    write_json(directory.environment, environment(["segtrain", "train", *command], world.size))
    world.broadcast(directory.path)
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
