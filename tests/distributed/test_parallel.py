"""Two processes compute what one would: evaluation, training, checkpoints, stopping. All on the CPU, over gloo."""

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from segtrain.distributed.launch import launch
from segtrain.distributed.parallel import shard, whole
from segtrain.distributed.place import place_in
from segtrain.distributed.world import LostRankError, World, join
from segtrain.engine import checkpoint
from segtrain.engine.checkpoint_folder import CheckpointOptions
from segtrain.engine.evaluate import Evaluation, evaluate
from segtrain.engine.freezing import FreezeSchedule
from segtrain.engine.options import TrainerOptions
from segtrain.engine.parts import Parts
from segtrain.engine.precision import choose_hardware, own_device
from segtrain.engine.run_directory import RunDirectory
from segtrain.engine.trainer import Trainer
from segtrain.errors import ConfigError, DataError, NonFiniteError
from segtrain.inference import Predictor, WholeImage
from segtrain.losses import Criterion, CrossEntropy
from segtrain.nn.norm import SyncBatchNorm, convert_norm
from segtrain.nn.normalize import Normalize
from segtrain.types import Batch, ModelOutput
from tests.distributed.conftest import CPU, in_two_processes
from tests.engine.test_trainer import FACTS, OPTIONS

SIZES = ((8, 8), (8, 12), (5, 7))


class Net(nn.Module):
    """Two convolutions with a norm between them."""

    def __init__(self, unused: bool = False) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 7, 3, padding=1), nn.BatchNorm2d(7), nn.ReLU())
        self.last = nn.Conv2d(7, 2, 1)
        if unused:
            self.unused = nn.Conv2d(1, 1, 1)
        convert_norm(self, "sync")

    def forward(self, images: Tensor) -> ModelOutput:
        return ModelOutput(self.last(self.first(images)), {})


def item(number: int, size: tuple[int, int]) -> tuple[Tensor, Tensor, str]:
    """An image, its labels, of which some are void, and its name."""
    generator = torch.Generator().manual_seed(number)
    image = torch.randint(0, 256, (3, *size), generator=generator, dtype=torch.uint8)
    labels = (image[0] > 127).to(torch.uint8)
    labels[: number % 5] = 255
    return image, labels, f"item {number}"


def stacked(numbers: list[int], size: tuple[int, int] = (8, 8)) -> Batch:
    images, labels, names = zip(*(item(number, size) for number in numbers), strict=True)
    return Batch(torch.stack(images), torch.stack(labels), tuple(names))


def share_of_evaluation(world: World, num_items: int, batch_size: int) -> list[list[Batch]]:
    """Lists as `EvalLoader` makes them; sizes differ within a list."""
    own = list(range(world.rank, num_items, world.size))
    lists = [own[i : i + batch_size] for i in range(0, len(own), batch_size)]
    return [[stacked([number], SIZES[number % 3]) for number in numbers] for numbers in lists]


def evaluations(world: World, cases: list[tuple[int, int]]) -> list[Evaluation | None]:
    torch.manual_seed(0)
    model = Net()
    hardware = choose_hardware("cpu", "fp32", False)
    predictor = Predictor(model, Normalize(FACTS.mean, FACTS.std), WholeImage(1.0), hardware)
    criterion = Criterion(CrossEntropy(2, 255, None, 0.0), {})
    return [
        evaluate(predictor, criterion, share_of_evaluation(world, n, size), FACTS, n, 4, world=world)
        for n, size in cases
    ]


def test_an_evaluation_by_two_processes_is_that_by_one_for_any_number_of_images(tmp_path: Path) -> None:
    cases = [(n, batch_size) for n in (1, 2, 3, 5, 7, 16, 17) for batch_size in (1, 2, 3, 4)]
    ones = evaluations(World.solo(CPU), cases)
    mains, others = in_two_processes(evaluations, tmp_path, cases)
    for (n, _), one, main, other in zip(cases, ones, mains, others, strict=True):
        assert one.matrix.matrix.dtype == main.matrix.matrix.dtype == torch.int64
        assert torch.equal(main.matrix.matrix, one.matrix.matrix)
        assert torch.equal(other.matrix.matrix, one.matrix.matrix)
        assert main.images == other.images == one.images == n
        assert main.loss == other.loss == pytest.approx(one.loss, rel=1e-6)
        assert [example.sample.name for example in main.examples] == [e.sample.name for e in one.examples]
        assert other.examples == []


def make_trainer(world: World, folder: Path, batches: Callable[[int], Iterator[Batch]], **changes: Any) -> Trainer:
    model_class = changes.pop("model", Net)
    restored = checkpoint.load(folder / "run" / "checkpoints" / "last.pt") if changes.pop("resume", False) else None
    options = TrainerOptions(**{**vars(OPTIONS), "pictures": 1, **changes})
    hardware = choose_hardware(str(world.device), options.precision, options.channels_last)
    torch.manual_seed(0)
    model = model_class().to(world.device)
    if options.parallel == "fsdp" and world.size > 1:
        shard(model, world, torch.zeros(1, 3, 8, 8, device=world.device))
    normalize = Normalize(FACTS.mean, FACTS.std).to(world.device)
    group = {"params": list(model.parameters()), "name": "model", "initial_lr": 0.1}
    parts = Parts(
        model=model,
        normalize=normalize,
        criterion=Criterion(CrossEntropy(2, 255, None, 0.0), {}),
        optimizer=torch.optim.SGD([group], lr=0.1, momentum=0.9, weight_decay=1e-3),
        freezing=FreezeSchedule(model, options.freeze or {}),
        schedule=lambda step: 1.0,
        train_batches=batches,
        val_batches=share_of_evaluation(world, 5, 2),
        num_val_images=5,
        predictor=Predictor(model, normalize, WholeImage(1.0), hardware),
        facts=FACTS,
        saved={},
        draw=lambda examples: np.zeros((4, 4, 3), dtype=np.uint8),
    )
    directory = RunDirectory(folder / "run")
    if world.is_main and restored is None:
        RunDirectory.create(folder / "run", folder, "", "")
    world.barrier()
    saving = CheckpointOptions(keep_last=1, async_=False)
    return Trainer(parts, options, saving, options.max_steps, hardware, directory, restored, world)


def stream_of(world: World) -> Callable[[int], Iterator[Batch]]:
    """Four images a batch over all processes, the same ones for any number of them."""

    def stream(step: int) -> Iterator[Batch]:
        while True:
            numbers = list(range(4 * step, 4 * step + 4))
            size = 4 // world.size
            yield stacked(numbers[world.rank * size : (world.rank + 1) * size])
            step += 1

    return stream


def trained(world: World, folder: Path, changes: dict[str, Any]) -> dict[str, Any]:
    """What the run leaves in its newest checkpoint and in its log; of processes other than the main one the weights."""
    trainer = make_trainer(world, folder, stream_of(world), **changes)
    trainer.train()
    trainer.close()
    world.barrier()
    return {
        "saved": checkpoint.load(trainer.directory.last),
        "metrics": trainer.directory.metrics.read_text().splitlines(),
        "own": {name: value.clone() for name, value in trainer.parts.model.named_parameters()}
        if trainer.options.parallel == "ddp"
        else {},
    }


def assert_close(one: Any, other: Any) -> None:
    if isinstance(one, Tensor):
        assert torch.allclose(one.double(), other.double(), rtol=0, atol=1e-6)
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_close(one[key], other[key])
    else:
        assert one == (pytest.approx(other, abs=1e-6) if isinstance(one, float) else other)


@pytest.mark.parametrize(
    "changes",
    [
        {"max_steps": 6, "ema_decay": 0.9, "clip_norm": 0.5},
        {"max_steps": 3, "accumulate": 2},
        {"max_steps": 4, "freeze": {"first": 2}},
        {"max_steps": 6, "ema_decay": 0.9, "clip_norm": 0.5, "parallel": "fsdp"},
        {"max_steps": 3, "accumulate": 2, "parallel": "fsdp"},
    ],
    ids=["ddp", "ddp_accumulate", "ddp_freeze", "fsdp", "fsdp_accumulate"],
)
def test_two_processes_train_the_weights_that_one_with_the_double_batch_does(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    one = trained(World.solo(CPU), tmp_path / "one", changes)
    main, other = in_two_processes(trained, tmp_path / "two", tmp_path / "two", changes)
    for part in ("model", "optimizer", "ema"):
        assert_close(main["saved"][part], one["saved"][part])
    assert main["saved"]["state"]["step"] == changes["max_steps"]
    assert len(main["saved"]["random"]) == 2
    assert len(main["metrics"]) == len(one["metrics"])
    for name, value in main["own"].items():
        assert torch.equal(value, other["own"][name])


def on_a_gpu_of_its_own(folder: Path, changes: dict[str, Any]) -> None:
    place = place_in(os.environ)
    assert place is not None
    device = own_device("cuda", place)
    with join(place.rank, place.size, place.local_rank, device, timeout=60) as world:
        trained(world, folder, changes)


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_two_gpus_train_the_weights_that_one_with_the_double_batch_does(tmp_path: Path, parallel: str) -> None:
    changes = {"max_steps": 6, "ema_decay": 0.9, "clip_norm": 0.5, "parallel": parallel}
    one = trained(World.solo(torch.device("cuda:0")), tmp_path / "one", changes)["saved"]
    launch(2, on_a_gpu_of_its_own, tmp_path / "two", changes)
    two = checkpoint.load(tmp_path / "two" / "run" / "checkpoints" / "last.pt")
    for name, value in one["model"].items():
        assert torch.allclose(two["model"][name].double(), value.double(), rtol=0, atol=1e-5), name


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_a_run_goes_on_with_another_number_of_processes(tmp_path: Path, parallel: str) -> None:
    changes = {"ema_decay": 0.9, "parallel": parallel}
    whole_run = trained(World.solo(CPU), tmp_path / "whole", {**changes, "max_steps": 4})
    trained(World.solo(CPU), tmp_path / "one", {**changes, "max_steps": 2})
    going_on = {**changes, "max_steps": 4, "resume": True}
    ended, _ = in_two_processes(trained, tmp_path / "one", tmp_path / "one", going_on)
    for part in ("model", "optimizer", "ema"):
        assert_close(ended["saved"][part], whole_run["saved"][part])
    back = trained(World.solo(CPU), tmp_path / "one", {**changes, "max_steps": 5, "resume": True})
    assert back["saved"]["state"]["step"] == 5


def told_in_one(world: World, folder: Path, late: bool) -> tuple[int, int | None]:
    """A signal reaches the second process alone, while it reads the third batch or evaluates."""

    def stream(step: int) -> Iterator[Batch]:
        for batch in stream_of(world)(step):
            if world.rank == 1 and step == 2 and not late:
                os.kill(os.getpid(), signal.SIGTERM)
            step += 1
            yield batch

    trainer = make_trainer(world, folder, stream, max_steps=50, evaluate_every=4)
    if late:
        told = signal.SIGUSR1 if world.rank == 1 else 0
        trainer.parts.predictor.model.register_forward_hook(
            lambda module, *_: os.kill(os.getpid(), told) if told and not module.training else None
        )
    trainer.train()
    trainer.close()
    return trainer.state.step, trainer.stopped_by


@pytest.mark.parametrize(("late", "number"), [(False, signal.SIGTERM), (True, signal.SIGUSR1)], ids=["step", "eval"])
def test_a_signal_to_one_process_stops_both_at_the_same_step_and_all_is_saved(
    tmp_path: Path, late: bool, number: int
) -> None:
    main, other = in_two_processes(told_in_one, tmp_path, tmp_path, late)
    assert main == other == (4 if late else 3, number)
    state = checkpoint.load(tmp_path / "run" / "checkpoints" / "last.pt")["state"]
    assert (state["step"], state["evaluated_step"]) == (main[0], 0)


def unreadable_in_one(world: World, folder: Path) -> None:
    def stream(step: int) -> Iterator[Batch]:
        for number, batch in enumerate(stream_of(world)(step)):
            if world.rank == 1 and number == 3:
                raise DataError("x.png: cut off")
            yield batch

    make_trainer(world, folder, stream, max_steps=50).train()


def test_a_sample_that_one_process_cannot_read_costs_none_of_the_progress(tmp_path: Path) -> None:
    main, other = in_two_processes(unreadable_in_one, tmp_path, tmp_path)
    assert isinstance(main, LostRankError)
    assert (type(other), str(other)) == (DataError, "x.png: cut off")
    assert checkpoint.load(tmp_path / "run" / "checkpoints" / "last.pt")["state"]["step"] == 3


def nan_in_one(world: World, folder: Path) -> None:
    trainer = make_trainer(world, folder, stream_of(world), max_steps=5)
    if world.rank == 1:
        trainer.parts.model.register_forward_hook(
            lambda module, inputs, output: ModelOutput(
                output.logits * (float("nan") if trainer.state.step == 2 else 1), {}
            )
        )
    trainer.train()


def test_a_loss_that_is_no_number_in_one_process_stops_both_before_the_weights_are_touched(tmp_path: Path) -> None:
    main, other = in_two_processes(nan_in_one, tmp_path, tmp_path)
    assert isinstance(main, NonFiniteError)
    assert isinstance(other, NonFiniteError)
    assert "the loss is nan at step 3" in str(main)
    kept = {path.name for path in (tmp_path / "run" / "nonfinite").iterdir()}
    assert kept == {"step_0000003_rank1.pt"}  # whose part of the loss it was
    assert str(main) == str(other)


def unused(world: World, folder: Path) -> None:
    make_trainer(world, folder, stream_of(world), model=lambda: Net(unused=True)).train()


def test_a_parameter_that_no_loss_reaches_is_named(tmp_path: Path) -> None:
    main, _ = in_two_processes(unused, tmp_path, tmp_path)
    assert isinstance(main, ConfigError)
    assert "the loss does not depend on unused.weight, unused.bias" in str(main)


def normed(world: World, batches: list[Tensor]) -> dict[str, Tensor]:
    """One training pass of a norm over this process's part of each batch, weighted so that gradients differ."""
    norm = SyncBatchNorm(3)
    nn.init.uniform_(norm.weight, 0.5, 1.5, generator=torch.Generator().manual_seed(0))
    model: nn.Module = DistributedDataParallel(norm) if world.size > 1 else norm
    found = {}
    for number, batch in enumerate(batches):
        part = batch.tensor_split(world.size)[world.rank].clone().requires_grad_()
        weights = torch.linspace(-1, 1, batch.numel()).view(batch.shape).tensor_split(world.size)[world.rank]
        (model(part) * weights).sum().mul(world.size).backward()
        found[f"gradient {number}"] = part.grad / world.size
    found |= {name: value.clone() for name, value in norm.state_dict().items()}
    return found | {f"{name}.grad": value.grad.clone() for name, value in norm.named_parameters()}


def test_a_synchronised_norm_is_a_norm_over_the_batches_of_all_processes(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(1)
    batches = [torch.randn(4, 3, 5, 6, generator=generator) * 3 + 100, torch.randn(2, 3, 1, 1, generator=generator)]
    one = normed(World.solo(CPU), batches)
    two = in_two_processes(normed, tmp_path, batches)
    for number in range(len(batches)):
        gradient = torch.cat([part.pop(f"gradient {number}") for part in two])
        assert torch.allclose(gradient, one.pop(f"gradient {number}"), atol=1e-5)
    for part in two:
        for name, value in one.items():
            assert torch.allclose(part[name], value, rtol=1e-5, atol=1e-4), name


def evaluated_as_one(world: World) -> list[Any]:
    torch.manual_seed(0)
    model = Net()
    nn.init.uniform_(model.last.weight, 0, 1 + world.rank)
    shard(model, world, torch.zeros(1, 3, 8, 8))
    model.first[1].running_mean.fill_(world.rank)
    outputs = []
    with whole(model, world), torch.inference_mode():
        model.eval()
        for _ in range(1 + 2 * world.rank):  # as many passes as each likes
            outputs.append(model(torch.ones(1, 3, 8, 8)).logits.clone())
    return outputs


def test_a_model_whose_parameters_are_shared_out_is_whole_in_evaluation(tmp_path: Path) -> None:
    main, other = in_two_processes(evaluated_as_one, tmp_path)
    assert (len(main), len(other)) == (1, 3)
    assert all(torch.equal(main[0], output) for output in other)
