"""`segtrain train`: one run, new or gone on with."""

import logging
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from segtrain import compose
from segtrain.build import Builder, saved_facts
from segtrain.compose import Job
from segtrain.data.loader import eval_loader, train_loader
from segtrain.engine import checkpoint
from segtrain.engine.logger import attach_file, close_log, log_failure, log_to_terminal
from segtrain.engine.precision import choose_hardware, seed_everything
from segtrain.engine.run_directory import RunDirectory, environment, write_json
from segtrain.engine.trainer import Parts, Trainer
from segtrain.errors import CheckpointError
from segtrain.inference import Predictor
from segtrain.report.examples import draw_examples
from segtrain.saved_config import apply_overrides

log = logging.getLogger("segtrain")

SECTIONS = ("model", "data", "loss", "optimizer", "schedule", "inference", "trainer")
# With resume= the run's own config counts; these keys alone are the command's.
OWN_KEYS = ("resume", "debug")


@dataclass(frozen=True)
class Start:
    """What a run begins with.

    Attributes:
        config: composed or saved, unresolved.
        choices: config group -> option, for names and messages.
        resume_from: contents of the checkpoint to go on from, and its folder; None for a new run.
    """

    config: DictConfig
    choices: dict[str, str]
    resume_from: tuple[dict[str, Any], RunDirectory] | None


def run(argv: Sequence[str]) -> int:
    def task(job: Job) -> None:
        train(_resumed(job) if job.config.resume else Start(job.config, job.choices, None), argv)

    resuming = any(word.startswith("resume=") and word != "resume=null" for word in argv)
    return compose.run_command("train", argv, task, own_keys=OWN_KEYS if resuming else None)


def _resumed(job: Job) -> Start:
    """The run directory's own config with this command's overrides on top, and its newest checkpoint."""
    path = Path(job.config.resume)
    if not path.is_dir():
        raise CheckpointError(f"resume={path}: no such folder; name a run's folder, the one that holds config.yaml")
    directory = RunDirectory(path)
    contents = checkpoint.load(directory.last)
    if not directory.config.is_file():
        raise CheckpointError(f"resume={path}: {directory.config.name} is missing; is it a run's folder?")
    saved = OmegaConf.load(directory.config)
    assert isinstance(saved, DictConfig)
    config, changed = apply_overrides(saved, job)
    return Start(config, contents["choices"] | changed, (contents, directory))


def train(start: Start, command: Sequence[str]) -> None:
    """Builds everything, then makes the run's folder, then trains.

    Raises:
        KeyboardInterrupt: Ctrl-C ended the training; everything is saved.
    """
    log_to_terminal()
    try:
        _train(start, command)
    except Exception as error:
        log_failure(error)
        raise
    finally:
        close_log()


def _train(start: Start, command: Sequence[str]) -> None:
    config = start.config
    builder = Builder(config)
    builder.check(*SECTIONS)
    options = builder.trainer_options()
    loader_options, data_options = builder.loader_options(), builder.data_options()
    hardware = choose_hardware(options.device, options.precision, options.channels_last)
    seed_everything(config.seed)

    train_set = builder.dataset(data_options.train_split)
    val_set = builder.dataset(data_options.val_split)
    facts = builder.facts(train_set)
    augmented = train_set.with_transform(builder.augmentation("train", facts.ignore_index), config.seed)
    unaugmented = val_set.with_transform(builder.augmentation("evaluate", facts.ignore_index), config.seed)
    pin_memory = hardware.device.type == "cuda"
    new_stream = train_loader(augmented, loader_options, config.seed, start_batch=0, pin_memory=pin_memory)
    max_steps = options.steps(new_stream.batches_per_epoch)

    model = builder.model(facts, pretrained=start.resume_from is None)
    model = model.to(hardware.device).to(memory_format=hardware.memory_format)
    normalize = builder.normalize(facts).to(hardware.device)
    criterion = builder.criterion(facts, train_set if start.resume_from is None else None).to(hardware.device)
    parts = Parts(
        model=model,
        normalize=normalize,
        criterion=criterion,
        optimizer=builder.optimizer(model),
        schedule=builder.schedule(max_steps),
        train_batches=lambda step: train_loader(
            augmented, loader_options, config.seed, step * options.accumulate, pin_memory
        ),
        val_batches=eval_loader(unaugmented, loader_options, pin_memory),
        num_val_images=len(val_set),
        predictor=Predictor(model, normalize, builder.strategy(), hardware),
        facts=facts,
        saved={
            "config": OmegaConf.to_container(config, resolve=False),
            "choices": dict(start.choices),
            "facts": saved_facts(facts),
        },
        draw=lambda examples: draw_examples(examples, facts),
    )

    directory = start.resume_from[1] if start.resume_from else _create_directory(start, command)
    attach_file(directory.log)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    epochs = max_steps * options.accumulate / new_stream.batches_per_epoch
    log.info("run directory: %s", directory.path)
    log.info("data: %s, %d training and %d validation images", _choice(start, "data"), len(train_set), len(val_set))
    log.info("model: %s, %.2f M parameters", _choice(start, "model", "model/backbone"), parameters / 1e6)
    log.info("%d steps (%.1f epochs) on %s in %s", max_steps, epochs, hardware.device, options.precision)

    trainer = Trainer(
        parts, options, max_steps, hardware, directory, start.resume_from[0] if start.resume_from else None
    )
    try:
        trainer.train()
    finally:
        trainer.close()
    _say_goodbye(trainer)


def _create_directory(start: Start, command: Sequence[str]) -> RunDirectory:
    config = start.config
    directory = RunDirectory.create(
        Path(config.run_dir) if config.run_dir is not None else None,
        Path(config.output_root),
        _choice(start, "data"),
        _choice(start, "model"),
    )
    OmegaConf.save(config, directory.config)  # unresolved: ${oc.env:TOKEN} must not be baked in
    write_json(directory.environment, environment(["segtrain", "train", *command]))
    return directory


def _choice(start: Start, *groups: str) -> str:
    return " over ".join(start.choices[group] for group in groups if group in start.choices) or "custom"


def _say_goodbye(trainer: Trainer) -> None:
    directory, state, monitor = trainer.directory, trainer.state, trainer.options.monitor
    if not trainer.finished:
        log.info("interrupted at step %d of %d; everything is saved.", state.step, trainer.max_steps)
        log.info("go on: segtrain train resume=%s", shlex.quote(str(directory.path)))
        raise KeyboardInterrupt
    if trainer.newest is not None:
        log.info("\n%s\n", trainer.newest.matrix.table(trainer.parts.facts.class_names))
    if state.best_value is not None:
        log.info("best %s %.4f at step %d: %s", monitor, state.best_value, state.best_step, directory.best)
    if directory.pictures.is_dir():
        log.info("pictures of predictions: %s", directory.pictures)
    log.info("evaluate: segtrain evaluate checkpoint=%s", shlex.quote(str(directory.best)))
