"""The training loop on a model of one convolution, against plain PyTorch."""

import copy
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from segtrain.engine import checkpoint
from segtrain.engine.checkpoint_folder import CheckpointOptions
from segtrain.engine.options import TrainerOptions
from segtrain.engine.parts import Parts
from segtrain.engine.precision import choose_hardware
from segtrain.engine.run_directory import RunDirectory
from segtrain.engine.trainer import Trainer
from segtrain.errors import ConfigError, DataError, NonFiniteError
from segtrain.inference import Predictor, WholeImage
from segtrain.losses import Criterion, CrossEntropy
from segtrain.nn.normalize import Normalize
from segtrain.types import Batch, DataFacts, ModelOutput

FACTS = DataFacts(("a", "b"), ((0, 0, 0), (255, 0, 0)), 255, 3, (0.5,) * 3, (0.5,) * 3)
OPTIONS = TrainerOptions(
    max_steps=4,
    max_epochs=None,
    accumulate=1,
    precision="fp32",
    device="cpu",
    channels_last=False,
    clip_norm=None,
    log_every=1,
    evaluate_every=None,
    save_every=None,
    monitor="miou",
    monitor_mode="max",
    pictures=0,
    ema_decay=None,
    ema_warmup=10,
    ema_evaluate_raw=True,
    patience=None,
    min_gain=0.0,
    freeze={},
    overfit_batches=None,
    compile=False,
    max_skipped_steps=20,
)
SAVING = CheckpointOptions(keep_last=1, async_=False)


class Pixelwise(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 1)

    def forward(self, images: Tensor) -> ModelOutput:
        return ModelOutput(self.conv(images), {})


def batch(number: int) -> Batch:
    generator = torch.Generator().manual_seed(number)
    images = torch.randint(0, 256, (2, 3, 8, 8), generator=generator, dtype=torch.uint8)
    return Batch(images, (images[:, 0] > 127).to(torch.uint8), (f"{number}a", f"{number}b"))


def stream(step: int) -> Iterator[Batch]:
    while True:
        yield batch(step)
        step += 1


def make_trainer(
    tmp_path: Path, model: nn.Module | None = None, train_batches=stream, factor=1.0, **changes
) -> Trainer:
    options = TrainerOptions(**{**vars(OPTIONS), **changes})
    hardware = choose_hardware("cpu", options.precision, options.channels_last)
    torch.manual_seed(0)
    model = model or Pixelwise()
    normalize = Normalize(FACTS.mean, FACTS.std)
    group = {"params": list(model.parameters()), "name": "model", "initial_lr": 0.1}
    parts = Parts(
        model=model,
        normalize=normalize,
        criterion=Criterion(CrossEntropy(2, 255, None, 0.0), {}),
        optimizer=torch.optim.SGD([group], lr=0.1, momentum=0.9),
        schedule=lambda step: factor,
        train_batches=train_batches,
        val_batches=[[batch(100)], [batch(101), batch(102)]],
        num_val_images=6,
        predictor=Predictor(model, normalize, WholeImage(1.0), hardware),
        facts=FACTS,
        saved={},
        draw=lambda examples: np.zeros((4, 4, 3), dtype=np.uint8),
    )
    directory = RunDirectory.create(tmp_path / "run", tmp_path, "", "")
    return Trainer(parts, options, SAVING, options.max_steps, hardware, directory, None)


def test_the_loop_is_plain_sgd(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path)
    reference = copy.deepcopy(trainer.parts.model)
    optimizer = torch.optim.SGD(reference.parameters(), lr=0.1, momentum=0.9)
    trainer.train()
    for number in range(4):
        inputs = (batch(number).images.float() / 255 - 0.5) / 0.5
        loss = nn.functional.cross_entropy(reference(inputs).logits, batch(number).labels.long())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    for ours, plain in zip(trainer.parts.model.parameters(), reference.parameters(), strict=True):
        assert torch.allclose(ours, plain, atol=1e-6)


def test_accumulating_two_batches_is_one_step_on_both(tmp_path: Path) -> None:
    accumulated = make_trainer(tmp_path / "two", accumulate=2, max_steps=1)
    accumulated.train()

    def both(step: int) -> Iterator[Batch]:
        one, two = batch(0), batch(1)
        yield Batch(torch.cat([one.images, two.images]), torch.cat([one.labels, two.labels]), one.names + two.names)

    large = make_trainer(tmp_path / "one", train_batches=both, max_steps=1)
    large.train()
    for ours, other in zip(accumulated.parts.model.parameters(), large.parts.model.parameters(), strict=True):
        assert torch.allclose(ours, other, atol=1e-6)


def test_clipping_bounds_the_step(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, clip_norm=1e-3, max_steps=1)
    before = [parameter.detach().clone() for parameter in trainer.parts.model.parameters()]
    trainer.train()
    moved = [(new - old).square().sum() for new, old in zip(trainer.parts.model.parameters(), before, strict=True)]
    assert float(sum(moved).detach() ** 0.5) == pytest.approx(0.1 * 1e-3, rel=1e-2)
    assert '"gradient_norm"' in trainer.directory.metrics.read_text()


def test_the_schedule_scales_every_groups_own_rate(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, factor=0.25, max_steps=1)
    trainer.train()
    assert [group["lr"] for group in trainer.parts.optimizer.param_groups] == [0.025]


def test_a_loss_that_is_no_number_ends_the_run_with_its_own_exit_code(tmp_path: Path) -> None:
    model = Pixelwise()
    model.conv.weight.data.fill_(float("nan"))
    with pytest.raises(NonFiniteError, match="step 1.*lower optimizer.lr") as caught:
        make_trainer(tmp_path, model).train()
    assert caught.value.exit_code == 4


def test_weights_that_a_nan_has_reached_replace_no_checkpoint(tmp_path: Path) -> None:
    def turning_bad(step: int) -> Iterator[Batch]:
        yield batch(0)
        trainer.parts.model.conv.weight.data.fill_(float("inf"))
        yield batch(1)
        yield batch(2)

    trainer = make_trainer(tmp_path, train_batches=turning_bad, log_every=100, save_every=1)
    with pytest.raises(NonFiniteError):
        trainer.train()
    saved = checkpoint.load(trainer.directory.last)
    assert saved["state"]["step"] == 1
    assert all(torch.isfinite(value).all() for value in saved["model"].values())


def test_a_gradient_that_is_no_number_is_noticed_before_the_step(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, clip_norm=1.0, max_steps=1)
    trainer.parts.model.conv.weight.register_hook(lambda gradient: gradient * float("nan"))
    before = trainer.parts.model.conv.weight.detach().clone()
    with pytest.raises(NonFiniteError, match="gradient"):
        trainer.train()
    assert torch.equal(trainer.parts.model.conv.weight, before)


def test_a_bad_sample_costs_the_run_but_not_its_progress(tmp_path: Path) -> None:
    def breaking(step: int) -> Iterator[Batch]:
        yield batch(0)
        yield batch(1)
        raise DataError("x.png: truncated")

    trainer = make_trainer(tmp_path, train_batches=breaking)
    with pytest.raises(DataError, match="truncated"):
        trainer.train()
    assert trainer.directory.last.is_file()
    assert trainer.state.step == 2
    assert not trainer.directory.results.exists()


@pytest.mark.parametrize(("mode", "values", "best"), [("max", [0.2, 0.5, 0.4], 0.5), ("min", [0.2, 0.1, 0.4], 0.1)])
def test_the_best_is_the_largest_or_the_smallest_as_told(tmp_path: Path, mode, values, best) -> None:
    trainer = make_trainer(tmp_path, monitor_mode=mode)
    for step, value in enumerate(values):
        trainer.state.step = step
        trainer._record_best({"miou": value})
    assert (trainer.state.best_value, trainer.state.best_step) == (best, values.index(best))


def test_an_absent_class_is_no_best(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path)
    assert trainer._record_best({"miou": None}) is False
    assert trainer.state.best_value is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_steps": None}, "set one of them"),
        ({"max_epochs": 3}, "set one of them"),
        ({"accumulate": 0}, "trainer.accumulate=0 must be at least 1"),
        ({"clip_norm": -1.0}, "must be positive"),
    ],
)
def test_contradicting_options_are_refused(changes: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TrainerOptions(**{**vars(OPTIONS), **changes})


@pytest.mark.parametrize(("epochs", "batches", "accumulate", "steps"), [(2, 10, 1, 20), (1, 10, 4, 3), (3, 7, 2, 11)])
def test_epochs_in_steps_are_rounded_up(epochs: int, batches: int, accumulate: int, steps: int) -> None:
    options = TrainerOptions(**{**vars(OPTIONS), "max_steps": None, "max_epochs": epochs, "accumulate": accumulate})
    assert options.steps(batches) == steps


@pytest.mark.parametrize(
    ("device", "precision", "message"),
    [("cpu", "fp16", "needs CUDA"), ("tpu", "fp32", "no device"), ("mps", "fp32", "not supported")],
)
def test_impossible_hardware_is_named(device: str, precision: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        choose_hardware(device, precision, True)


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_every_precision_learns_on_cuda(tmp_path: Path, precision: str) -> None:
    options = TrainerOptions(**{**vars(OPTIONS), "max_steps": 30, "precision": precision, "device": "cuda"})
    hardware = choose_hardware("cuda", precision, True)
    trainer = make_trainer(tmp_path)
    trainer.parts.model.to("cuda")
    trainer.parts.normalize.to("cuda")
    trainer.parts.predictor.hardware = hardware
    cuda = Trainer(trainer.parts, options, SAVING, 30, hardware, trainer.directory, None)
    cuda.train()
    assert cuda.newest is not None
    assert cuda.newest.matrix.miou() > 0.8
