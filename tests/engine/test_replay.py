"""Where a step that went wrong first has a value that is no number, on models small enough to know the answer."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from segtrain.distributed.world import World
from segtrain.engine.freezing import FreezeSchedule
from segtrain.engine.options import TrainerOptions
from segtrain.engine.parts import Parts
from segtrain.engine.precision import choose_hardware
from segtrain.engine.replay import Values, largest_weights, replay
from segtrain.engine.step import TrainStep
from segtrain.inference import Predictor, WholeImage
from segtrain.losses import Criterion, CrossEntropy
from segtrain.types import Batch, ModelOutput
from tests.engine.test_trainer import FACTS, OPTIONS

BATCH = Batch(torch.full((1, 3, 4, 4), 7, dtype=torch.uint8), torch.zeros(1, 4, 4, dtype=torch.uint8), ("a",))


class Log(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.log()


class Model(nn.Module):
    """A 1x1 convolution, what is being tested, and a second convolution."""

    def __init__(self, middle: nn.Module) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 2, 1)
        self.middle = middle
        self.last = nn.Conv2d(2, 2, 1)
        nn.init.constant_(self.first.weight, 0.0)
        nn.init.constant_(self.first.bias, -1.0)

    def forward(self, images: Tensor) -> ModelOutput:
        return ModelOutput(self.last(self.middle(self.first(images))), {})


def step_over(model: nn.Module, **changes: Any) -> TrainStep:
    options = TrainerOptions(**{**vars(OPTIONS), **changes})
    hardware = choose_hardware("cpu", "fp32", channels_last=False)
    normalize = nn.Identity()
    parts = Parts(
        model=model,
        normalize=_AsFloat(),
        criterion=Criterion(CrossEntropy(2, 255, None, 0.0), {}),
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
        freezing=FreezeSchedule(model, None),
        schedule=lambda step: 1.0,
        train_batches=lambda step: (),
        val_batches=(),
        num_val_images=0,
        predictor=Predictor(model, normalize, WholeImage(1.0), hardware),
        facts=FACTS,
        saved={},
        draw=lambda examples: None,
    )
    return TrainStep(parts, options, hardware, World.solo(hardware.device))


class _AsFloat(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images.float()


def test_the_first_module_with_a_value_that_is_no_number_is_named_with_its_input() -> None:
    found = replay(step_over(Model(nn.Sequential(nn.Identity(), Log()))), [BATCH])
    assert found.reproduced
    assert math.isnan(found.loss)
    assert found.activation is not None
    assert found.activation.module == "middle.1 (Log)"
    assert found.activation.inputs == Values((1, 2, 4, 4), -1.0, -1.0, 0, 0)
    assert found.activation.output.nans == 32
    assert set(found.bad_gradients) == {"first.weight", "first.bias", "last.weight", "last.bias"}
    assert found.num_gradients == 4


def test_a_gradient_alone_that_is_no_number_is_found_with_its_operation() -> None:
    class Root(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (x * 0).abs().sqrt() * 1.0  # finite; its gradient is 0 * inf

    found = replay(step_over(Model(Root())), [BATCH])
    assert found.reproduced
    assert math.isfinite(found.loss)
    assert found.activation is None
    assert "first.weight" in found.bad_gradients
    assert "last.weight" not in found.bad_gradients
    assert found.operation is not None
    assert "Backward0' returned nan values" in found.operation
    assert "called in forward, " in found.operation


def test_a_sound_step_is_not_reproduced_and_leaves_no_gradient() -> None:
    model = Model(nn.Identity())
    found = replay(step_over(model), [BATCH, BATCH])
    assert not found.reproduced
    assert (found.activation, found.bad_gradients, found.operation) == (None, {}, None)
    assert len(found.terms) == 2
    # Two equal batches share the step's loss equally.
    assert found.terms[0]["cross_entropy"] == pytest.approx(found.loss / 2)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_both_passes_draw_the_same_random_numbers() -> None:
    class Coin(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.log() if torch.rand(()) < 0.5 else x

    heads = tails = 0
    for seed in range(12):
        torch.manual_seed(seed)
        bad = bool(torch.rand(()) < 0.5)
        step = step_over(Model(Coin()))
        torch.manual_seed(seed)  # building the model drew too
        found = replay(step, [BATCH])
        assert found.reproduced is bad
        assert (found.operation is not None) is bad
        heads, tails = heads + bad, tails + (not bad)
    assert heads
    assert tails


def test_values_count_what_is_not_finite_and_span_what_is() -> None:
    tensor = torch.tensor([1.0, -3.0, math.inf, math.nan, -math.inf])
    assert Values.of([tensor]) == Values((5,), -3.0, 1.0, 1, 2)
    assert str(Values.of([tensor])) == "5, -3 to 1, 1 NaN and 2 infinite"
    assert str(Values.of([torch.tensor([math.nan])])) == "1, no finite value, 1 NaN"


def test_the_largest_weights_come_first_and_what_is_no_number_before_them() -> None:
    model = nn.ParameterDict({"a": torch.tensor([1.0, -9.0]), "b": torch.tensor(3.0), "c": torch.tensor(math.nan)})
    assert list(largest_weights(model)) == ["c", "a", "b"]
    assert largest_weights(model)["a"] == 9.0
