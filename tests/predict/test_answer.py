"""What is asked of a model, and which classes and stages a figure shows. The models are tables of logits."""

from collections.abc import Iterator, Sequence

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from segtrain.errors import MachineError
from segtrain.inference import Predictor, ScoreMap, WholeImage
from segtrain.inference.strategy import Forward, Strategy
from segtrain.predict.answer import MOST_REFINEMENTS, Questions, shown_classes, shown_refinements
from segtrain.types import Hardware, ModelOutput

CPU = Hardware(torch.device("cpu"), None, torch.contiguous_format, False)


class Table(nn.Module):
    """Three classes whose logits are the pixel's channels, scaled to 0..10."""

    def forward(self, images: Tensor) -> ModelOutput:
        return ModelOutput(images * 10, {})


class Twice(Strategy):
    """Refines two times what its base says: each time the belief is squared and normalised again."""

    def __init__(self) -> None:
        super().__init__()
        self.base = WholeImage(scale=1.0)

    def trace(self, forward: Forward, images: Tensor) -> Iterator[tuple[str, ScoreMap]]:
        for name, scores in self.base.trace(forward, images):
            yield name, scores
        for number in (1, 2):
            scores = ScoreMap((2 * scores.full()).log_softmax(dim=1))
            yield f"iteration {number}", scores

    def forward(self, forward: Forward, images: Tensor) -> ScoreMap:
        *_, (_, last) = self.trace(forward, images)
        return last


def asked(products: Sequence[str], strategy: Strategy, figure_classes: int = 8, threshold: float | None = None):
    normalize = nn.Module()
    normalize.forward = lambda images: images.float() / 255  # type: ignore[method-assign]
    questions = Questions(Predictor(Table(), normalize, strategy, CPU), products, threshold, figure_classes)
    image = np.zeros((6, 8, 3), dtype=np.uint8)
    image[:, :4, 0] = 255  # left of class 0, right of class 2, which is less certain
    image[:, 4:, 2] = 51
    return questions.ask(image, torch.from_numpy(image.transpose(2, 0, 1).copy())[None])


LABELS = [[0] * 4 + [2] * 4] * 6
CERTAIN = np.exp(10) / (np.exp(10) + 2)
LESS = np.exp(2) / (np.exp(2) + 2)


def test_a_picture_that_does_not_fit_is_said_with_what_a_prediction_can_change() -> None:
    class Full(WholeImage):
        def forward(self, forward: Forward, images: Tensor) -> ScoreMap:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    with pytest.raises(MachineError, match="out of memory in a prediction .*inference=slide"):
        asked(["index"], Full(scale=1.0))


@pytest.mark.parametrize("strategy", [WholeImage(scale=1.0), Twice()])
def test_labels_alone_bring_nothing_else(strategy: Strategy) -> None:
    got = asked(["index", "palette", "overlay"], strategy)
    assert got.labels.tolist() == LABELS
    assert got.labels.dtype == np.uint8
    assert (got.probabilities, got.confidence, got.story) == (None, None, None)


def test_confidence_and_probabilities_are_those_of_the_softmax() -> None:
    got = asked(["confidence", "probabilities"], WholeImage(scale=1.0))
    assert got.confidence[0].tolist() == [round(255 * CERTAIN)] * 4 + [round(255 * LESS)] * 4
    assert got.probabilities[2, 0, 5] == pytest.approx(LESS, abs=1e-3)
    assert got.probabilities.dtype == np.float16
    assert got.story is None


def test_a_strategy_that_refines_nothing_has_scores_and_beliefs() -> None:
    story = asked(["scores", "beliefs"], WholeImage(scale=1.0)).story
    score, belief = story.stages
    assert (score.kind, belief.kind) == ("score", "belief")
    assert story.classes == [0, 2]
    assert score.maps[:, 0].tolist() == [[10] * 4 + [0] * 4, [0] * 4 + [2] * 4]
    assert belief.maps[1, 0, 4:] == pytest.approx(LESS, abs=1e-3)
    assert score.top.tolist() == story.labels.tolist() == LABELS
    assert belief.top[0] == pytest.approx([CERTAIN] * 4 + [LESS] * 4, abs=1e-3)


def test_every_refinement_is_a_stage_and_the_last_is_the_result() -> None:
    got = asked(["scores", "beliefs", "probabilities"], Twice())
    assert [stage.title for stage in got.story.stages] == [
        *("score,\nbefore softmax", "belief,\nafter softmax", "iteration 1", "iteration 2")
    ]
    once, twice = (np.exp(2 * k) / (np.exp(2 * k) + 2) for k in (2, 4))  # logits 2 become 4, then 8
    assert got.story.stages[2].maps[1, 0, 4:] == pytest.approx(once, abs=1e-3)
    assert got.story.stages[3].maps[1, 0, 4:] == pytest.approx(twice, abs=1e-3)
    assert got.probabilities[2, 0, 4:] == pytest.approx(twice, abs=1e-3)
    assert asked(["probabilities"], Twice()).probabilities.tolist() == got.probabilities.tolist()


@pytest.mark.parametrize(
    ("products", "kinds"), [(["scores"], ["score"]), (["beliefs"], ["belief", "belief", "belief"])]
)
def test_each_alone_has_its_own_stages_alone(products: list[str], kinds: list[str]) -> None:
    assert [stage.kind for stage in asked(products, Twice()).story.stages] == kinds


def test_of_many_classes_the_most_probable_are_shown_in_their_order() -> None:
    labels = [np.array([[0, 1, 3]]), np.array([[0, 2, 3]])]
    beliefs = [np.array([0.5, 0.1, 0.0, 0.4, 0.9]).reshape(5, 1, 1), np.array([0.5, 0, 0.3, 0.2, 0.9]).reshape(5, 1, 1)]
    assert shown_classes(labels, beliefs, most=8) == [0, 1, 2, 3]  # not 4, which no pixel has
    assert shown_classes(labels, beliefs, most=2) == [0, 3]


@pytest.mark.parametrize(
    ("stages", "shown"),
    [(1, []), (2, [1]), (4, [1, 2, 3]), (11, list(range(1, 11))), (21, [1, 3, 5, 7, 9, 12, 14, 16, 18, 20])],
)
def test_refinements_are_all_shown_or_at_equal_distances(stages: int, shown: list[int]) -> None:
    assert shown_refinements(stages) == shown
    assert len(shown) <= MOST_REFINEMENTS


def test_a_figure_of_a_large_image_keeps_small_maps() -> None:
    normalize = nn.Module()
    normalize.forward = lambda images: images.float() / 255  # type: ignore[method-assign]
    questions = Questions(Predictor(Table(), normalize, Twice(), CPU), ["beliefs"], None, 8)
    image = np.random.default_rng(0).integers(0, 256, (400, 800, 3), dtype=np.uint8)
    story = questions.ask(image, torch.from_numpy(image.transpose(2, 0, 1).copy())[None]).story
    assert story.image.shape == (160, 320, 3)
    assert all(stage.maps.shape == (3, 160, 320) for stage in story.stages)
