"""The dense CRF behind another strategy, on images of any number of channels."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from segtrain.errors import ConfigError
from segtrain.inference import WholeImage
from segtrain.inference.crf import DenseCRF, PairwiseTerm, mean_field
from segtrain.inference.score_map import ScoreMap

PARAMETERS: dict[str, Any] = {
    "iterations": 5,
    "spatial_weight": 3.0,
    "spatial_sigma": 2.0,
    "bilateral_weight": 6.0,
    "bilateral_sigma_xy": 30.0,
    "bilateral_sigma_rgb": 12.0,
    "normalization": "symmetric",
}


def crf(**changes: Any) -> DenseCRF:
    return DenseCRF(WholeImage(1.0), **{**PARAMETERS, **changes})


def halves(channels: int = 3) -> Tensor:
    """[1, channels, 20, 30] uint8: dark on the left, bright from column 12 on, with some noise."""
    images = torch.full((1, channels, 20, 30), 60)
    images[..., 12:] = 180
    noise = torch.randint(-4, 5, images.shape, generator=torch.Generator().manual_seed(0))
    return (images + noise).byte()


def scores_of(images: Tensor) -> Tensor:
    """[N, 2, 20, 30]: a model that finds the border four columns too far to the right, and is wrong in one corner."""
    logits = torch.zeros(len(images), 2, *images.shape[-2:])
    logits[:, 1] = torch.linspace(-2, 2, 30) - 0.2
    logits[:, 1, :3, :3] = 0.5
    return logits


def blurred_halves(images: Tensor) -> ScoreMap:
    return ScoreMap(scores_of(images))


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_borders_move_to_those_of_the_image_and_specks_vanish(channels: int) -> None:
    images = halves(channels)
    before = scores_of(images).argmax(dim=1)
    after = crf()(blurred_halves, images).full().argmax(dim=1)
    truth = (images[:, 0] > 120).long()
    assert (before != truth).sum() > 80
    assert torch.equal(after, truth)


def test_what_comes_back_are_log_probabilities_of_the_images_size() -> None:
    logits = crf()(blurred_halves, halves()).full()
    assert logits.shape == (1, 2, 20, 30)
    assert logits.dtype == torch.float32
    assert torch.allclose(logits.exp().sum(dim=1), torch.ones(1, 20, 30), atol=1e-5)
    assert logits.isfinite().all()


def test_images_of_a_batch_do_not_see_each_other() -> None:
    images = torch.cat([halves(), 255 - halves()])
    together = crf()(blurred_halves, images).full()
    apart = [crf()(blurred_halves, image[None]).full() for image in images]
    assert torch.equal(together, torch.cat(apart))


def test_a_constant_added_to_all_logits_of_a_pixel_changes_nothing() -> None:
    shift = torch.randn(1, 1, 20, 30)
    shifted = crf()(lambda images: ScoreMap(scores_of(images) + shift), halves()).full()
    assert torch.allclose(shifted, crf()(blurred_halves, halves()).full(), atol=1e-3)


def test_beliefs_after_each_iteration_end_in_what_is_returned() -> None:
    image = halves()[0]
    scores = scores_of(image[None])[0]
    _, *stages = crf().trace(blurred_halves, image[None])
    beliefs = [stage.full()[0].softmax(dim=0) for _, stage in stages]
    assert len(beliefs) == 5
    assert all(torch.allclose(q.sum(dim=0), torch.ones(20, 30)) for q in beliefs)
    assert torch.allclose(beliefs[-1].log(), crf().refine(image, scores), atol=1e-4)
    shorter = crf(iterations=2).refine(image, scores)
    assert torch.allclose(beliefs[1].log(), shorter, atol=1e-4)


def test_the_energy_is_that_of_its_two_kernels() -> None:
    image = halves()[0]
    scores = scores_of(image[None])[0]
    y, x = torch.meshgrid(torch.arange(20.0), torch.arange(30.0), indexing="ij")
    positions = torch.stack([x, y]).flatten(1)
    colours = image.flatten(1).float()
    terms = [
        PairwiseTerm(positions / 2, 3.0, "symmetric"),
        PairwiseTerm(torch.cat([positions / 30, colours / 12]), 6.0, "symmetric"),
    ]
    *_, last = mean_field(scores.flatten(1).T.contiguous(), terms, 5)
    expected = last.T.reshape(2, 20, 30).log_softmax(dim=0)
    assert torch.allclose(crf().refine(image, scores), expected, atol=1e-5)


def test_a_weight_of_zero_leaves_its_kernel_out() -> None:
    nothing = crf(spatial_weight=0, bilateral_weight=0)(blurred_halves, halves()).full()
    assert torch.allclose(nothing, scores_of(halves()).log_softmax(dim=1), atol=1e-6)
    costless = crf(spatial_weight=[[0.0, 0.0], [0.0, 0.0]])(blurred_halves, halves()).full()
    assert torch.allclose(costless, crf(spatial_weight=0)(blurred_halves, halves()).full(), atol=1e-5)


def test_a_matrix_of_equal_costs_is_the_potts_model() -> None:
    matrix = crf(bilateral_weight=[[0.0, 6.0], [6.0, 0.0]])(blurred_halves, halves()).full()
    assert torch.allclose(matrix, crf()(blurred_halves, halves()).full(), atol=1e-4)


def test_a_reward_for_labels_that_agree_is_a_cost_for_those_that_differ() -> None:
    rewarded = crf(bilateral_weight=[[-6.0, 0.0], [0.0, -6.0]])(blurred_halves, halves()).full()
    assert torch.allclose(rewarded, crf()(blurred_halves, halves()).full(), atol=1e-4)


def test_a_sigma_for_each_channel_scales_that_channel_alone() -> None:
    images = halves()
    images[:, 1, :, 12:20] = 60  # bright from column 20 on
    alike = crf(bilateral_sigma_rgb=[12.0, 12.0, 12.0])(blurred_halves, images).full()
    assert torch.equal(alike, crf()(blurred_halves, images).full())
    for channel, column in ((0, 12), (1, 20)):
        sigmas = [1e5] * 3
        sigmas[channel] = 12.0
        labels = crf(bilateral_sigma_rgb=sigmas)(blurred_halves, images).full()[0].argmax(dim=0)
        assert labels[10].tolist() == [0] * column + [1] * (30 - column)


def test_results_are_the_same_each_time() -> None:
    results = [crf()(blurred_halves, halves()).full() for _ in range(3)]
    assert all(torch.equal(result, results[0]) for result in results)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"iterations": 0}, "iterations=0 must be at least 1"),
        ({"spatial_sigma": 0.0}, "spatial_sigma=0 must be a positive number"),
        ({"bilateral_sigma_rgb": [3.0, -1.0, 3.0]}, "bilateral_sigma_rgb=-1 must be a positive number"),
        ({"bilateral_weight": -4.0}, "bilateral_weight=-4 must be at least 0"),
        ({"bilateral_weight": [[0.0, 1.0]]}, r"bilateral_weight: 1 rows of \[2\] numbers are no square matrix"),
        ({"bilateral_weight": [[0.0, math.nan], [1.0, 0.0]]}, r"bilateral_weight=\[\[0.0, nan\].*: every cost must be"),
        ({"spatial_weight": [[0.0, 1.0], [math.inf, 0.0]]}, "spatial_weight=.*: every cost must be a finite number"),
        ({"bilateral_weight": math.nan}, "bilateral_weight=nan must be at least 0"),
        ({"normalization": "twice"}, "normalization='twice' is none of symmetric, before, after, none"),
    ],
)
def test_a_mistake_in_a_parameter_is_said(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        crf(**changes)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: crf(spatial_weight=[[0.0] * 3] * 3), "spatial_weight: a matrix of 3 rows, but there are 2 classes"),
        (lambda: crf(bilateral_sigma_rgb=[3.0, 3.0]), "the image has 3 channel"),
    ],
)
def test_what_does_not_fit_classes_or_channels_is_said(make: Callable[[], DenseCRF], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()(blurred_halves, halves()).full()


def test_the_stages_are_the_bases_scores_and_what_each_iteration_makes_of_them() -> None:
    images = torch.cat([halves(), halves().flip(-1)])
    strategy = crf(iterations=3)
    stages = list(strategy.trace(blurred_halves, images))
    assert [name for name, _ in stages] == ["scores", "iteration 1", "iteration 2", "iteration 3"]
    assert torch.equal(stages[0][1].full(), scores_of(images))
    assert torch.equal(stages[-1][1].full(), strategy(blurred_halves, images).full())
    for number, (_, stage) in enumerate(stages[1:], start=1):
        alone = crf(iterations=number).refine(images[1], scores_of(images)[1])
        assert torch.allclose(stage.full()[1], alone, atol=1e-5)
