"""The stages on the way to a score map: the last is the result, and nothing of the model's modes leaks between them."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from segtrain.inference import MultiScale, Predictor, ScoreMap, SlidingWindow, WholeImage
from segtrain.inference.strategy import Forward, Strategy
from segtrain.types import Hardware, ModelOutput

CPU = Hardware(torch.device("cpu"), None, torch.contiguous_format, False)


class Sharpened(Strategy):
    """Doubles the logits of its base, twice."""

    def __init__(self, base: Strategy) -> None:
        super().__init__()
        self.base = base

    def trace(self, forward: Forward, images: Tensor) -> Iterator[tuple[str, ScoreMap]]:
        for name, scores in self.base.trace(forward, images):
            yield name, scores
        for number in (1, 2):
            scores = ScoreMap(2 * scores.full())
            yield f"iteration {number}", scores

    def forward(self, forward: Forward, images: Tensor) -> ScoreMap:
        *_, (_, last) = self.trace(forward, images)
        return last


def predictor(strategy: Strategy) -> Predictor:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3, padding=1)
            self.norm = nn.BatchNorm2d(4)

        def forward(self, images: Tensor) -> ModelOutput:
            return ModelOutput(self.norm(self.conv(images)), {})

    class Scale(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images.float() / 255

    torch.manual_seed(0)
    return Predictor(Net(), Scale(), strategy, CPU)


IMAGES = torch.randint(0, 256, (2, 3, 20, 24), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_a_strategy_that_refines_nothing_has_one_stage_its_result() -> None:
    window = SlidingWindow([16, 16], None, 0.5, "uniform", 0.125, 1, None)
    for strategy in (WholeImage(1.0), window, MultiScale([0.5, 1.0], True, False, "probabilities", WholeImage(1.0))):
        made = predictor(strategy)
        ((name, scores),) = made.trace(IMAGES)
        assert name == "scores"
        assert torch.equal(scores.full(), made.logits(IMAGES))


def test_the_stages_of_a_strategy_that_refines_begin_with_its_bases_and_end_with_its_result() -> None:
    made, base = predictor(Sharpened(WholeImage(1.0))), predictor(WholeImage(1.0))
    names, scores = zip(*made.trace(IMAGES), strict=True)
    assert names == ("scores", "iteration 1", "iteration 2")
    for factor, stage in zip((1, 2, 4), scores, strict=True):
        assert torch.equal(stage.full(), factor * base.logits(IMAGES))
    assert torch.equal(scores[-1].full(), made.logits(IMAGES))


def test_between_two_stages_the_model_is_in_its_own_mode_and_gradients_are_recorded() -> None:
    made = predictor(Sharpened(WholeImage(1.0)))
    made.model.train()
    for _ in made.trace(IMAGES):
        assert made.model.training
        assert not torch.is_inference_mode_enabled()
