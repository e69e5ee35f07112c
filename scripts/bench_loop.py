"""What segtrain's training loop costs a step over a bare PyTorch loop with the same model, data and optimizer.

    python scripts/bench_loop.py
    python scripts/bench_loop.py --cases tiny --blocks 40 --threads 1
    python scripts/bench_loop.py --cases saving

unet_light, tiny: both loops run in one process on equal models and the same batches, which lie in memory, in turn:
whenever segtrain's loop asks for the first batch of a block, the bare loop first does its steps of that block, outside
segtrain's time. A block ends in a line of the log. Shown are the medians over the blocks, and the median of the blocks'
own ratios and differences, which a machine that gets slower or faster meanwhile does not move. Aims, on a machine that
does nothing else: a ratio of at most 1.02 for unet_light, and at most 1.5 ms more for the tiny model.

saving: a training that saves every so many steps, one that does so in the background, and one that does not, a block of
steps each in turn, with a save in its middle; milliseconds of a step, and what one save costs the training.
"""

import argparse
import logging
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import cycle, islice
from pathlib import Path
from statistics import median

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.optim import Optimizer

from segtrain.build import Builder
from segtrain.compose import Job, run_command
from segtrain.data.loader import train_loader
from segtrain.engine.checkpoint_folder import CheckpointOptions
from segtrain.engine.freezing import FreezeSchedule
from segtrain.engine.options import TrainerOptions
from segtrain.engine.parts import Parts
from segtrain.engine.precision import choose_hardware, seed_everything
from segtrain.engine.run_directory import RunDirectory
from segtrain.engine.trainer import Trainer
from segtrain.inference import Predictor
from segtrain.types import Batch, DataFacts, Hardware

CASES = {
    "unet_light": ("model=unet_light", "data.size=[256,256]", "augment.crop_size=[256,256]", "data.batch_size=2"),
    "tiny": (
        *("model=unet", "model.batch_norm=true", "model.decoder_channels=[4,4,4,4,4]", "data.size=[32,32]"),
        *("model.backbone.channels=[4,4,4,4,4]", "model.backbone.batch_norm=true", "model.backbone.dropout=0"),
        *("augment.crop_size=[32,32]", "data.batch_size=1"),
    ),
}
COMMON = ("data=shapes", "data.num_train=64", "data.num_val=2", "data.workers=0", "trainer.evaluate_every=null")
NUM_BATCHES = 8  # different ones, used in turn


@dataclass
class Loop:
    """A model in training with what a bare loop needs of it."""

    model: nn.Module
    optimizer: Optimizer
    facts: DataFacts
    hardware: Hardware

    def steps(self, batches: list[Batch]) -> None:
        """The training loop that one writes by hand."""
        device = self.hardware.device
        mean, std = (torch.tensor(x, device=device).view(1, -1, 1, 1) for x in (self.facts.mean, self.facts.std))
        for batch in batches:
            images = (batch.images.to(device, non_blocking=True).float() / 255 - mean) / std
            labels = batch.labels.to(device, non_blocking=True).long()
            self.optimizer.zero_grad(set_to_none=True)
            with self.hardware.autocast():
                logits = self.model(images.contiguous(memory_format=self.hardware.memory_format)).logits
            loss = F.cross_entropy(logits.float(), labels, ignore_index=self.facts.ignore_index)
            loss.backward()
            self.optimizer.step()


@dataclass
class InTurn:
    """The batches for segtrain's loop; between two blocks of them the bare loop does as many steps.

    Attributes:
        ours, bare: seconds of a step, mean of each block.
    """

    bare_loop: Loop
    batches: list[Batch]
    block: int
    ours: list[float] = field(default_factory=list)
    bare: list[float] = field(default_factory=list)

    def __call__(self, step: int) -> Iterator[Batch]:
        number = 0
        while True:
            chosen = [self.batches[(number + i) % len(self.batches)] for i in range(self.block)]
            number += self.block
            started = self._now()
            self.bare_loop.steps(chosen)
            self.bare.append((self._now() - started) / self.block)
            started = self._now()
            yield from chosen
            self.ours.append((self._now() - started) / self.block)  # asked for more: these are done with

    def _now(self) -> float:
        if self.bare_loop.hardware.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()


class Turns:
    """Lets one of several threads go on at a time, in the order of their numbers."""

    def __init__(self, count: int) -> None:
        self._count, self._whose, self._changed = count, 0, threading.Condition()

    def wait_for(self, number: int) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._whose == number)

    def pass_on(self) -> None:
        with self._changed:
            self._whose = (self._whose + 1) % self._count
            self._changed.notify_all()


@dataclass
class InBlocks:
    """The batches of one of several trainings that take turns, a block of steps each, with a save in its middle.

    Attributes:
        seconds: of a step, mean of each block.
    """

    batches: list[Batch]
    block: int
    turns: Turns
    number: int
    finish: Callable[[], None] = lambda: None
    seconds: list[float] = field(default_factory=list)

    def __call__(self, step: int) -> Iterator[Batch]:
        yield from islice(cycle(self.batches), self.block // 2)
        while True:
            self.finish()  # of a save in the background, what the block did not hide
            self.turns.pass_on()
            self.turns.wait_for(self.number)
            started = time.perf_counter()
            yield from islice(cycle(self.batches), self.block)
            self.seconds.append((time.perf_counter() - started) / self.block)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=[*CASES, "saving"], default=[*CASES, "saving"])
    parser.add_argument("--blocks", type=int, default=12, help="of each case; one more is done first and left out")
    parser.add_argument("--block", type=int, default=10, help="steps in a block, and between two lines of the log")
    parser.add_argument("--threads", type=int, default=1, help="that torch computes with")
    parser.add_argument("--save-every", type=int, default=20, help="steps; case saving")
    parser.add_argument("--rounds", type=int, default=12, help="blocks of one save each, in each training; case saving")
    parser.add_argument("--overrides", nargs="*", default=[], help="for every case, such as trainer.precision=bf16")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    logging.getLogger("segtrain").addHandler(logging.NullHandler())
    logging.getLogger("segtrain").propagate = False
    loops = [case for case in arguments.cases if case in CASES]
    if loops:
        print(f"{'case':<12} {'segtrain':>12} {'bare':>12} {'ratio':>8} {'more a step':>12}", flush=True)
    for case in loops:
        ours, bare = measure(case, arguments)
        ratio = median(a / b for a, b in zip(ours, bare, strict=True))
        more = median(a - b for a, b in zip(ours, bare, strict=True))
        times = f"{1e3 * median(ours):>9.2f} ms {1e3 * median(bare):>9.2f} ms"
        print(f"{case:<12} {times} {ratio:>8.3f} {1e3 * more:>9.2f} ms", flush=True)
    if "saving" in arguments.cases:
        show_saving(arguments)


def measure(case: str, arguments: argparse.Namespace) -> tuple[list[float], list[float]]:
    """Seconds of a step of segtrain's loop and of the bare loop, block by block."""
    steps = (arguments.blocks + 2) * arguments.block
    prepared = Prepared.of(case, steps, arguments)
    bare = prepared.model()
    loop = Loop(bare, prepared.builder.optimizer(bare), prepared.facts, prepared.hardware)
    in_turn = InTurn(loop, prepared.batches, arguments.block)
    with tempfile.TemporaryDirectory() as folder:
        trainer = prepared.trainer(in_turn, CheckpointOptions(keep_last=1, async_=False), Path(folder))
        trainer.train()
        trainer.close()
    return in_turn.ours[1:], in_turn.bare[1 : len(in_turn.ours)]


def show_saving(arguments: argparse.Namespace) -> None:
    """Prints what saves cost: medians over the blocks, and the checkpoint's size."""
    every, rounds = arguments.save_every, arguments.rounds + 1
    modes = {"none": (None, False), "in the loop": (every, False), "background": (every, True)}
    turns = Turns(len(modes))
    with tempfile.TemporaryDirectory() as folder:
        threads, trainings = [], {}
        for number, (mode, (save_every, in_background)) in enumerate(modes.items()):
            # Small images: a save, whose size they do not change, is to be seen among the steps.
            more = (f"trainer.save_every={save_every or 'null'}", "data.size=[64,64]", "augment.crop_size=[64,64]")
            prepared = Prepared.of("unet_light", every // 2 + rounds * every + 1, arguments, *more)
            in_blocks = InBlocks(prepared.batches, every, turns, number)
            saving = CheckpointOptions(keep_last=1, async_=in_background)
            trainer = prepared.trainer(in_blocks, saving, Path(folder) / mode)
            in_blocks.finish = trainer.checkpoints.finish
            trainings[mode] = in_blocks
            threads.append(threading.Thread(target=train_in_turn, args=(trainer, in_blocks)))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        size = trainer.directory.last.stat().st_size
    print(f"\n{'saving':<12} {'step':>12} {'a save costs':>14}    every {every} steps, {size / 2**20:.0f} MiB")
    for mode, in_blocks in trainings.items():
        pairs = zip(in_blocks.seconds[1:], trainings["none"].seconds[1:], strict=True)
        costs = every * median(a - b for a, b in pairs)
        print(f"{mode:<12} {1e3 * median(in_blocks.seconds[1:]):>9.2f} ms {1e3 * costs:>11.1f} ms")


def train_in_turn(trainer: Trainer, in_blocks: InBlocks) -> None:
    in_blocks.turns.wait_for(in_blocks.number)
    try:
        trainer.train()
    finally:
        trainer.close()
        in_blocks.turns.pass_on()


@dataclass(frozen=True)
class Prepared:
    """What every training of one case is made of."""

    builder: Builder
    options: TrainerOptions
    hardware: Hardware
    facts: DataFacts
    batches: list[Batch]

    @classmethod
    def of(cls, case: str, steps: int, arguments: argparse.Namespace, *more: str) -> "Prepared":
        lengths = (f"trainer.max_steps={steps}", f"trainer.log_every={arguments.block}", "trainer.pictures=0")
        composed: list[Job] = []
        code = run_command("train", [*COMMON, *CASES[case], *lengths, *more, *arguments.overrides], composed.append)
        assert code == 0
        builder = Builder(composed[0].config)
        options = builder.trainer_options()
        dataset = builder.dataset("train")
        facts = builder.facts(dataset)
        augmented = dataset.with_transform(builder.augmentation("train", facts.ignore_index), 0)
        batches = list(islice(train_loader(augmented, builder.loader_options(), 0, 0, False), NUM_BATCHES))
        hardware = choose_hardware(options.device, options.precision, options.channels_last)
        return cls(builder, options, hardware, facts, batches)

    def model(self) -> nn.Module:
        """The same weights every time."""
        seed_everything(0)
        built = self.builder.model(self.facts, pretrained=False)
        return built.to(self.hardware.device).to(memory_format=self.hardware.memory_format).train()

    def trainer(
        self, train_batches: Callable[[int], Iterator[Batch]], saving: CheckpointOptions, folder: Path
    ) -> Trainer:
        model, normalize = self.model(), self.builder.normalize(self.facts).to(self.hardware.device)
        parts = Parts(
            model=model,
            normalize=normalize,
            criterion=self.builder.criterion(self.facts, None, model).to(self.hardware.device),
            optimizer=self.builder.optimizer(model),
            freezing=FreezeSchedule(model, {}),
            schedule=self.builder.schedule(self.options.steps(1)),
            train_batches=train_batches,
            val_batches=[[self.batches[0]]],
            num_val_images=len(self.batches[0].names),
            predictor=Predictor(model, normalize, self.builder.strategy(), self.hardware),
            facts=self.facts,
            saved={},
            draw=lambda examples: np.zeros((1, 1, 3), dtype=np.uint8),
        )
        directory = RunDirectory.create(folder / "run", folder, "", "")
        return Trainer(parts, self.options, saving, self.options.steps(1), self.hardware, directory, None)


if __name__ == "__main__":
    main()
