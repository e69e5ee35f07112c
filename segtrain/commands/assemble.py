"""Everything that a trainer is handed, built from the config of a run."""

import torch
from omegaconf import OmegaConf

from segtrain.build import Builder, saved_facts
from segtrain.commands.start import Start
from segtrain.data.loader import TrainLoader, eval_loader, train_loader
from segtrain.distributed.parallel import shard
from segtrain.distributed.world import World
from segtrain.engine.evaluate import check_monitor, monitor_name, try_criterion
from segtrain.engine.freezing import FreezeSchedule
from segtrain.engine.options import TrainerOptions
from segtrain.engine.parts import Parts
from segtrain.engine.run_directory import versions
from segtrain.inference import Predictor
from segtrain.load import build_criterion, check_weights
from segtrain.report.examples import draw_examples
from segtrain.types import Hardware, Shard

# What of the config a training needs.
SECTIONS = (
    *("run", "model", "data", "augment.train", "augment.evaluate", "loss"),
    *("optimizer", "schedule", "inference", "trainer", "checkpoint"),
)


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
        freezing=FreezeSchedule(model, options.freeze),
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
        f"data: {choice(start, 'data')}, {len(train_set)} training and {len(val_set)} validation images",
        f"model: {choice(start, 'model', 'model/backbone')}, {parameters / 1e6:.2f} M parameters",
        f"{max_steps} steps ({epochs:.1f} epochs) on {_devices(hardware, options, world)} in {options.precision}",
    ]
    return parts, max_steps, summary


def _devices(hardware: Hardware, options: TrainerOptions, world: World) -> str:
    if world.size == 1:
        return str(hardware.device)
    return f"{world.size} processes ({hardware.device.type}, {options.parallel})"


def choice(start: Start, *groups: str) -> str:
    """What was chosen of the groups, for names and messages: `unet over resnet18`."""
    return " over ".join(start.choices[group] for group in groups if group in start.choices) or "custom"
