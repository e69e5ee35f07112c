"""The training loop on a model of one convolution, against plain PyTorch."""

import copy
import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from segtrain.engine import checkpoint
from segtrain.engine.checkpoint_folder import CheckpointOptions
from segtrain.engine.evaluate import evaluate
from segtrain.engine.freezing import FreezeSchedule
from segtrain.engine.options import TrainerOptions
from segtrain.engine.parts import Parts
from segtrain.engine.precision import choose_hardware
from segtrain.engine.run_directory import RunDirectory
from segtrain.engine.trainer import Trainer
from segtrain.errors import ConfigError, DataError, MachineError, NonFiniteError
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
    freeze=None,
    overfit_batches=None,
    compile=False,
    max_skipped_steps=20,
    dry_run=False,
    devices=1,
    parallel="ddp",
    timeout=60.0,
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
        freezing=FreezeSchedule(model, options.freeze),
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


@pytest.mark.parametrize("class_weights", [None, [0.2, 3.0]])
def test_batches_with_unequal_numbers_of_valid_pixels_accumulate_to_the_large_batch(
    tmp_path: Path, class_weights
) -> None:
    def halves(step: int) -> Iterator[Batch]:
        for number in (0, 1):
            labels = batch(number).labels.clone()
            labels[:, : 7 * number] = 255  # one whole batch, and an eighth of the other
            yield Batch(batch(number).images, labels, batch(number).names)

    def both(step: int) -> Iterator[Batch]:
        one, two = halves(step)
        yield Batch(torch.cat([one.images, two.images]), torch.cat([one.labels, two.labels]), one.names + two.names)

    criterion = Criterion(CrossEntropy(2, 255, class_weights, 0.0), {})
    runs = []
    for name, batches, accumulate in (("two", halves, 2), ("one", both, 1)):
        trainer = make_trainer(tmp_path / name, train_batches=batches, max_steps=1, accumulate=accumulate)
        trainer.step.parts = trainer.parts = replace(trainer.parts, criterion=criterion)
        trainer.train()
        runs.append(trainer)
    accumulated, large = runs
    for ours, other in zip(accumulated.parts.model.parameters(), large.parts.model.parameters(), strict=True):
        assert torch.allclose(ours, other, atol=1e-6)
    logged = [json.loads(run.directory.metrics.read_text().splitlines()[0]) for run in runs]
    assert logged[0]["loss"] == pytest.approx(logged[1]["loss"], abs=1e-6)
    assert logged[0]["gradient_norm"] == pytest.approx(logged[1]["gradient_norm"], abs=1e-6)


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


def test_the_step_that_failed_is_kept_whole_and_its_samples_are_named(tmp_path: Path) -> None:
    def poisoned(step: int) -> Iterator[Batch]:
        yield batch(0)
        trainer.parts.model.conv.bias.register_hook(lambda gradient: gradient * float("nan"))
        before.append({name: value.clone() for name, value in trainer.parts.model.state_dict().items()})
        torch.manual_seed(5)
        yield batch(1)

    before: list[dict[str, Tensor]] = []
    trainer = make_trainer(tmp_path, train_batches=poisoned)
    with pytest.raises(NonFiniteError) as caught:
        trainer.train()
    assert "Samples: 1a, 1b. Look into it: segtrain replay" in str(caught.value)
    assert "the gradient's norm is nan at step 2" in str(caught.value)
    kept = checkpoint.load(trainer.directory.nonfinite / "step_0000002.pt")
    assert all(torch.equal(value, before[0][name]) for name, value in kept["model"].items())
    assert kept["batches"][0]["names"] == ["1a", "1b"]
    assert torch.equal(kept["batches"][0]["images"], batch(1).images)
    torch.manual_seed(5)
    assert torch.equal(kept["random"][0]["torch"], torch.get_rng_state())
    assert not trainer.directory.last.exists()


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


def test_a_run_ends_when_nothing_got_better_for_so_many_evaluations(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, factor=0.0, max_steps=50, evaluate_every=2, patience=3)
    trainer.train()
    assert trainer.finished
    assert (trainer.state.step, trainer.state.best_step) == (8, 2)  # 2 is the best, 4, 6 and 8 are no better


def test_a_gain_too_small_to_count_is_still_the_best(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, evaluate_every=1, patience=3, min_gain=0.1)
    stale = []
    for step, value in enumerate([0.5, 0.55, 0.7, 0.71], start=1):
        trainer.state.step = step
        assert trainer._record_best({"miou": value})
        stale.append(trainer.state.stale_evaluations)
    assert stale == [0, 1, 0, 1]


def test_averaged_weights_are_evaluated_and_saved_beside_the_raw_ones(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, ema_decay=0.5, ema_warmup=1)
    trainer.train()
    kinds = [json.loads(line)["kind"] for line in trainer.directory.metrics.read_text().splitlines()]
    assert kinds == ["train"] * 4 + ["val_raw", "val"]
    saved = checkpoint.load(trainer.directory.last)
    assert saved["ema"]["updates"] == 4
    averages = Pixelwise()
    averages.load_state_dict(saved["ema"]["model"])
    trainer.parts.predictor.model = averages
    again = evaluate(
        trainer.parts.predictor, trainer.parts.criterion, trainer.parts.val_batches, FACTS, 6, 0, lambda: False
    )
    assert again is not None
    assert trainer.newest is not None
    assert again.loss == trainer.newest.loss
    assert not torch.equal(saved["model"]["conv.weight"], saved["ema"]["model"]["conv.weight"])


def test_a_part_that_is_frozen_at_first_keeps_its_weights_until_its_step(tmp_path: Path) -> None:
    model = nn.Module()
    model.first, model.second = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 2, 1)
    model.forward = lambda images: ModelOutput(model.second(model.first(images)), {})
    before = model.first.weight.detach().clone()
    trainer = make_trainer(tmp_path, model, freeze={"first": 2}, max_steps=3)
    batches = stream(0)
    for moved in (False, False, True):
        trainer.train_step(batches)
        assert torch.equal(model.first.weight, before) is not moved


def test_a_compiled_model_trains_alike_under_its_own_names(tmp_path: Path) -> None:
    plain, compiled = make_trainer(tmp_path / "plain"), make_trainer(tmp_path / "compiled")
    compiled.step.model = torch.compile(compiled.step.model, backend="eager")
    plain.train()
    compiled.train()
    ours, other = (checkpoint.load(trainer.directory.last)["model"] for trainer in (plain, compiled))
    assert ours.keys() == other.keys()
    assert all(torch.allclose(ours[name], other[name], atol=1e-6) for name in ours)


def with_scaler(tmp_path: Path, **changes) -> Trainer:
    """Loss scaling as fp16 has it, in float32 on the CPU."""
    trainer = make_trainer(tmp_path, **changes)
    hardware = replace(trainer.hardware, loss_scaling=True)
    return Trainer(trainer.parts, trainer.options, SAVING, trainer.max_steps, hardware, trainer.directory, None)


def test_an_overflowing_gradient_skips_its_update_and_is_counted(tmp_path: Path) -> None:
    trainer = with_scaler(tmp_path)
    calls = []

    def overflow_once(gradient: Tensor) -> Tensor:
        calls.append(gradient)
        return gradient * float("inf") if len(calls) == 2 else gradient

    trainer.parts.model.conv.weight.register_hook(overflow_once)
    batches, weights = stream(0), []
    for _ in range(3):
        trainer.train_step(batches)
        weights.append(trainer.parts.model.conv.weight.detach().clone())
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[1], weights[2])
    assert (trainer.state.step, trainer.state.skipped_steps, trainer.state.skipped_in_a_row) == (3, 1, 0)


def test_too_many_skipped_updates_in_a_row_end_the_run(tmp_path: Path) -> None:
    trainer = with_scaler(tmp_path, max_skipped_steps=2, max_steps=10)
    trainer.parts.model.conv.weight.register_hook(lambda gradient: gradient * float("inf"))
    with pytest.raises(NonFiniteError, match=r"max_skipped_steps=2: gradients overflowed in 3 updates in a row"):
        trainer.train()


def test_out_of_memory_names_the_batch_size_that_fits(tmp_path: Path) -> None:
    class Hungry(Pixelwise):
        def forward(self, images: Tensor) -> ModelOutput:
            if len(images) > 3:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB")
            return super().forward(images)

    def large(step: int) -> Iterator[Batch]:
        yield Batch(torch.cat([batch(0).images] * 4), torch.cat([batch(0).labels] * 4), batch(0).names * 4)

    trainer = make_trainer(tmp_path, Hungry(), train_batches=large)
    with pytest.raises(MachineError, match=r"data.batch_size=8 of 8 x 8 pixels .* 3 fits: set data.batch_size=3 "):
        trainer.train()


def test_an_evaluation_that_does_not_fit_is_one_line_and_costs_no_step(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path)

    def too_large(images: Tensor) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB")

    trainer.parts.predictor.logits = too_large
    with pytest.raises(MachineError, match=r"out of memory in an evaluation .* lower data.eval_batch_size"):
        trainer.train()
    assert checkpoint.load(trainer.directory.last)["state"]["step"] == 4


def test_a_failed_save_of_the_best_is_not_repeated_as_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`last.pt` must not say of a best that it was saved where it was not."""
    trainer = make_trainer(tmp_path, evaluate_every=2)
    sync, calls = os.fsync, []

    def full_at_the_second_checkpoint(descriptor: int) -> None:
        calls.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        if sum(name.endswith(".last.pt.tmp") for name in calls) == 2 and calls[-1].endswith(".last.pt.tmp"):
            raise OSError(28, "No space left on device")
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", full_at_the_second_checkpoint)
    with pytest.raises(MachineError, match="No space left"):
        trainer.train()
    assert checkpoint.load(trainer.directory.last)["state"] == checkpoint.load(trainer.directory.best)["state"]


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
