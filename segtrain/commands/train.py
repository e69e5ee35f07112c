"""`segtrain train`: one run, new or gone on with."""

import contextlib
import logging
import os
import shlex
import signal
from collections.abc import Callable, Sequence
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from segtrain import compose
from segtrain.build import Builder
from segtrain.commands.assemble import SECTIONS, assemble, choice
from segtrain.commands.ranks import run_as_rank, train_as_rank
from segtrain.commands.start import Saved, Start, start_of
from segtrain.compose import Job
from segtrain.distributed.interrupt import ended_by_signals
from segtrain.distributed.place import place_in
from segtrain.distributed.world import World
from segtrain.engine.dry_run import dry_run
from segtrain.engine.logger import attach_file, close_log, log_failure, log_to_terminal
from segtrain.engine.options import TrainerOptions
from segtrain.engine.parts import Parts
from segtrain.engine.precision import choose_hardware, count_devices, seed_everything
from segtrain.engine.run_directory import (
    RunDirectory,
    changed_environment,
    environment,
    full_disk_named,
    read_json,
    write_json,
    write_text,
)
from segtrain.engine.step import TrainStep
from segtrain.engine.trainer import Trainer
from segtrain.errors import CheckpointError, ConfigError, Stopped
from segtrain.explain import check_complete
from segtrain.types import Hardware

log = logging.getLogger("segtrain")

# With resume= the run's own config counts; these keys alone are the command's.
OWN_KEYS = ("resume", "debug")


def run(argv: Sequence[str]) -> int:
    with ended_by_signals():
        return _run(argv)


def _run(argv: Sequence[str]) -> int:
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
        if count == 1 or options.dry_run:
            _train(start, command, None)
        else:
            from segtrain.distributed.launch import launch  # torch's launcher, which few runs need

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
    if options.dry_run:
        _dry_run(parts, options, max_steps, hardware, world, summary)
        return
    with full_disk_named(_destination(start)):
        directory = start.checkpoint.directory if start.checkpoint else _create_directory(start, command, world)
        with directory.locked() if world.is_main else contextlib.nullcontext():
            if start.checkpoint and world.is_main:
                start.checkpoint.check_newest()
            attach_file(directory.log, world.rank)
            for line in (f"run directory: {directory.path}", *summary):
                log.info(line)
            if start.checkpoint:
                _go_on(start.checkpoint, config, command, world)
            contents = start.checkpoint.contents if start.checkpoint else None
            saving = builder.checkpoint_options()
            trainer = Trainer(parts, options, saving, max_steps, hardware, directory, contents, world)
            try:
                trainer.train()
            finally:
                trainer.close()
    _say_goodbye(trainer)


def _dry_run(
    parts: Parts, options: TrainerOptions, max_steps: int, hardware: Hardware, world: World, summary: Sequence[str]
) -> None:
    """Prints what the run would take, measured in this process; of several that something else started, all call it."""
    for line in summary:
        log.info(line)
    if options.devices != 1:
        log.info("measured in one process of trainer.devices=%s", options.devices)
    step = TrainStep(parts, options, hardware, world)
    if options.compile:
        step.compile()
    rows = dry_run(parts, options, max_steps, step).rows()
    width = max(len(name) for name, _ in rows)
    if world.is_main:
        print("\n".join(f"{name:<{width}}  {text}" for name, text in rows))


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
            f"raise trainer.{'max_steps' if config.trainer.max_steps is not None else 'max_epochs'}"
        )


def _go_on(saved: Saved, config: DictConfig, command: Sequence[str], world: World) -> None:
    """Makes the run's folder and its state say what this command changed, and warns where that spoils repeatability."""
    contents, directory = saved.contents, saved.directory
    if any(contents["config"]["trainer"].get(key) != config.trainer[key] for key in ("monitor", "monitor_mode")):
        # The best by another measure says nothing.
        contents["state"] |= {
            "best_value": None,
            "best_step": 0,
            "counted_value": None,
            "stale_evaluations": 0,
        }
    if not world.is_main:
        return
    write_text(directory.config, OmegaConf.to_yaml(config))
    record, now = read_json(directory.environment), environment(["segtrain", "train", *command], world.size)
    earlier = [record, *record.get("resumed", [])][-1]
    write_json(directory.environment, {**record, "resumed": [*record.get("resumed", []), now]})
    changes = changed_environment(earlier, now)
    for key in ("data.batch_size", "trainer.accumulate"):
        section, name = key.split(".")
        before, after = contents["config"][section].get(name), config[section][name]
        if before != after:
            changes.append(f"{key} {before} -> {after}, and with it the place in the data")
    if changes:
        log.warning("going on, but not to the same bits as without the interruption: %s", "; ".join(changes))


def _destination(start: Start) -> Path:
    """The run directory, or where one will be made."""
    if start.checkpoint:
        return start.checkpoint.directory.path
    return Path(start.config.run_dir or start.config.output_root)


def _create_directory(start: Start, command: Sequence[str], world: World) -> RunDirectory:
    """Made by the main process; the others learn its name."""
    config = start.config
    if not world.is_main:
        return RunDirectory(world.broadcast(None))
    directory = RunDirectory.create(
        Path(config.run_dir) if config.run_dir is not None else None,
        Path(config.output_root),
        choice(start, "data"),
        choice(start, "model"),
        again=config.resume == "auto",
    )
    write_text(directory.config, OmegaConf.to_yaml(config))  # unresolved: ${oc.env:TOKEN} must not be baked in
    write_json(directory.environment, environment(["segtrain", "train", *command], world.size))
    world.broadcast(directory.path)
    return directory


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
