"""Mean field against sums over all pairs of pixels, and against what others' code made of two photographs."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from segtrain.inference.crf import Lattice, PairwiseTerm, mean_field

HEIGHT, WIDTH, CLASSES = 12, 15, 4
PIXELS = HEIGHT * WIDTH


def positions(sigma: float, height: int = HEIGHT, width: int = WIDTH) -> Tensor:
    y, x = torch.meshgrid(torch.arange(float(height)), torch.arange(float(width)), indexing="ij")
    return torch.stack([x, y]).flatten(1).double() / sigma


def logits() -> Tensor:
    return torch.randn(PIXELS, CLASSES, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def colours(channels: int) -> Tensor:
    """A smooth picture of any number of channels, 0 to 255."""
    coarse = torch.rand(1, channels, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(channels))
    return 255 * torch.nn.functional.interpolate(coarse, size=(HEIGHT, WIDTH), mode="bilinear")[0].flatten(1)


def gaussian(features: Tensor) -> Tensor:
    return torch.exp(-0.5 * torch.cdist(features.T, features.T) ** 2)


def over_the_lattice(features: Tensor) -> Tensor:
    """The kernel matrix that the lattice stands for, column by column."""
    return Lattice(features).filter(torch.eye(features.shape[1], dtype=torch.float64))


def symmetric(kernel: Tensor) -> Tensor:
    root = kernel.sum(dim=1).rsqrt()
    return root[:, None] * kernel * root


def naive(scores: Tensor, kernels: list[tuple[Tensor, Tensor]], iterations: int) -> Tensor:
    """Q by Algorithm 1, every sum written out.

    Args:
        scores: [N, C]: minus the unary energies.
        kernels: [N, N] kernel matrix and [C, C] compatibility of each term.
        iterations: of mean field.
    """
    num_pixels, num_classes = scores.shape
    beliefs = scores.softmax(dim=1)
    for _ in range(iterations):
        energy = -scores.clone()
        for kernel, mu in kernels:
            heard = torch.zeros_like(beliefs)
            for i in range(num_pixels):
                heard[i] = (kernel[i][:, None] * beliefs).sum(dim=0)
            for label in range(num_classes):
                for other in range(num_classes):
                    energy[:, label] += mu[label, other] * heard[:, other]
        unnormalised = (-energy).exp()
        beliefs = unnormalised / unnormalised.sum(dim=1, keepdim=True)
    return beliefs


def potts(weight: float, num_classes: int = CLASSES) -> Tensor:
    return weight * (1 - torch.eye(num_classes, dtype=torch.float64))


def last(scores: Tensor, terms: list[PairwiseTerm], iterations: int) -> Tensor:
    *_, updated = mean_field(scores, terms, iterations)
    return updated.softmax(dim=1)


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_mean_field_is_the_naive_one_at_the_lattices_own_kernel(channels: int) -> None:
    near, alike = positions(3), torch.cat([positions(40), colours(channels) / 20])
    terms = [PairwiseTerm(near, 3.0, "symmetric"), PairwiseTerm(alike, 10.0, "symmetric")]
    kernels = [
        (symmetric(over_the_lattice(near)), potts(3)),
        (symmetric(over_the_lattice(alike)), potts(10)),
    ]
    for iterations in (1, 2, 10):
        difference = last(logits(), terms, iterations) - naive(logits(), kernels, iterations)
        assert difference.abs().max() < 1e-9


@pytest.mark.parametrize(
    ("features", "weight", "tolerance"),
    [
        # A kernel that is wide beside the picture is what the lattice approximates best.
        (positions(100), 0.5, 1e-3),
        (torch.cat([positions(100), colours(3) / 2000]), 0.5, 1e-3),
        # Another one is not quite the Gaussian, and the more it weighs, the further this moves beliefs.
        (positions(30), 0.5, 3e-3),
        (positions(3), 1.0, 1e-2),
        (positions(1), 1.0, 2e-2),
    ],
)
def test_mean_field_is_nearly_the_naive_one_at_the_gaussian(features: Tensor, weight: float, tolerance: float) -> None:
    scores = logits()
    scores[:, 0] += 1.5  # so that even what all pixels hear alike moves them
    found = last(scores, [PairwiseTerm(features, weight, "symmetric")], 10)
    error = (found - naive(scores, [(symmetric(gaussian(features)), potts(weight))], 10)).abs().max()
    assert error < tolerance
    assert error < (found - scores.softmax(dim=1)).abs().max() / 10


@pytest.mark.parametrize("normalization", ["symmetric", "before", "after", "none"])
def test_a_matrix_of_equal_costs_is_the_potts_model(normalization: str) -> None:
    features = positions(3)
    scalar = last(logits(), [PairwiseTerm(features, 2.5, normalization)], 4)
    matrix = last(logits(), [PairwiseTerm(features, potts(2.5), normalization)], 4)
    assert torch.allclose(scalar, matrix, atol=1e-12)


@pytest.mark.parametrize("normalization", ["symmetric", "before", "after", "none"])
def test_any_matrix_of_costs_is_that_of_the_naive_sums(normalization: str) -> None:
    features = positions(2)
    mu = torch.rand(CLASSES, CLASSES, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    kernel = over_the_lattice(features)
    sums = kernel.sum(dim=1)
    normalised = {
        "symmetric": symmetric(kernel),
        "before": kernel / sums[None, :],
        "after": kernel / sums[:, None],
        "none": kernel,
    }[normalization]
    found = last(logits(), [PairwiseTerm(features, mu, normalization)], 3)
    assert torch.allclose(found, naive(logits(), [(normalised, mu)], 3), atol=1e-9)


def test_labels_that_cost_each_other_nothing_may_lie_side_by_side() -> None:
    """Classes 0 and 1 are compatible: a speck of 1 in 0 stays, one of 2 does not."""
    scores = torch.zeros(PIXELS, 3, dtype=torch.float64)
    scores[:, 0] = 1.0
    scores[[50, 130], [1, 2]] = 1.5
    mu = 5 * torch.tensor([[0.0, 0.0, 1.0], [0.0, 0.0, 1.0], [1.0, 1.0, 0.0]], dtype=torch.float64)
    labels = last(scores, [PairwiseTerm(positions(2), mu, "symmetric")], 5).argmax(dim=1)
    assert (labels[50].item(), labels[130].item()) == (1, 0)
    labels = last(scores, [PairwiseTerm(positions(2), 5.0, "symmetric")], 5).argmax(dim=1)
    assert (labels[50].item(), labels[130].item()) == (0, 0)


def test_without_terms_nothing_changes_and_every_iteration_is_handed_out() -> None:
    handed_out = list(mean_field(logits(), [], 3))
    assert len(handed_out) == 3
    assert all(torch.equal(updated, logits()) for updated in handed_out)


def test_what_was_handed_out_is_not_changed_by_later_iterations() -> None:
    seen, copies = [], []
    for updated in mean_field(logits(), [PairwiseTerm(positions(3), 3.0, "symmetric")], 4):
        seen.append(updated)
        copies.append(updated.clone())
    assert all(torch.equal(a, b) for a, b in zip(seen, copies, strict=True))
    assert not torch.equal(copies[0], copies[1])


def reference_case(folder: Path, number: int) -> tuple[Tensor, list[PairwiseTerm], dict[str, np.ndarray]]:
    """One photograph of shared data: its unaries as logits, and the terms that its results were made with."""
    case = dict(np.load(folder / f"crf_{number}.npz"))
    image = np.array(Image.open(folder / f"im{number}.png"))
    height, width = case["shape"]
    channels = torch.from_numpy(image).permute(2, 0, 1).flatten(1).float()
    near, far = (positions(sigma, int(height), int(width)).float() for sigma in (3, 80))
    terms = [
        PairwiseTerm(near, 3.0, "symmetric"),
        PairwiseTerm(torch.cat([far, channels / 13]), 10.0, "symmetric"),
    ]
    return torch.from_numpy(-case["unary"]).T.contiguous(), terms, case


@pytest.mark.parametrize("number", [1, 2])
def test_label_maps_are_those_of_the_authors_code(shared_data: Path, number: int) -> None:
    folder = shared_data / "densecrf"
    scores, terms, case = reference_case(folder, number)
    beliefs = last(scores, terms, 5)
    labels = beliefs.argmax(dim=1).reshape(*case["shape"]).numpy()
    out = np.array(Image.open(folder / f"out{number}.png")).astype(np.int64)
    out_colours = (out[..., 0] << 16) + (out[..., 1] << 8) + out[..., 2]
    assert (case["colors_bgr"][labels] == out_colours).mean() >= 0.995
    # Beliefs may differ between exact lattices that lie differently in space; this one lies as theirs does.
    assert np.abs(beliefs.T.numpy() - case["Q5"]).max() < 1e-3
    again = last(*reference_case(folder, number)[:2], 5)
    assert torch.equal(beliefs, again)


COSTS = torch.tensor([[0, 1, 2, 3, 4], [1, 0, 1, 2, 3], [2, 1, 0, 1, 2], [3, 2, 1, 0, 1], [4, 3, 2, 1, 0]]).float()


@pytest.mark.parametrize(
    ("normalization", "weight"),
    [("symmetric", 4.0), ("before", 4.0), ("after", 4.0), ("none", 0.3), ("symmetric", COSTS)],
    ids=["symmetric", "before", "after", "none", "matrix"],
)
def test_beliefs_are_those_of_pydensecrf(normalization: Any, weight: float | Tensor) -> None:
    densecrf = pytest.importorskip("pydensecrf.densecrf", reason="needs pydensecrf2, which compiles the authors' code")
    height, width, classes = 40, 50, 5
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (3, 8, 10), generator=generator).float()
    image = torch.nn.functional.interpolate(image[None], size=(height, width), mode="bilinear")[0].round()
    scores = torch.randn(height * width, classes, generator=generator)
    theirs = densecrf.DenseCRF2D(width, height, classes)
    theirs.setUnaryEnergy(np.ascontiguousarray(-scores.log_softmax(dim=1).T.numpy()))
    theirs.addPairwiseGaussian(sxy=1, compat=3)
    theirs.addPairwiseBilateral(
        sxy=67,
        srgb=3,
        rgbim=np.ascontiguousarray(image.permute(1, 2, 0).byte().numpy()),
        compat=weight.numpy() if isinstance(weight, Tensor) else weight,
        normalization={
            "symmetric": densecrf.NORMALIZE_SYMMETRIC,
            "before": densecrf.NORMALIZE_BEFORE,
            "after": densecrf.NORMALIZE_AFTER,
            "none": densecrf.NO_NORMALIZATION,
        }[normalization],
    )
    expected = torch.from_numpy(np.array(theirs.inference(10))).T
    near, far = (positions(sigma, height, width).float() for sigma in (1, 67))
    alike = torch.cat([far, image.flatten(1) / 3])
    found = last(scores, [PairwiseTerm(near, 3.0, "symmetric"), PairwiseTerm(alike, weight, normalization)], 10)
    assert (found - expected).abs().max() < 1e-3
    assert (found - last(scores, [PairwiseTerm(near, 3.0, "symmetric")], 10)).abs().max() > 0.1
