"""The dense CRF as what comes after any other inference strategy."""

import math
from collections.abc import Iterator, Sequence
from typing import get_args

import torch
from torch import Tensor

from segtrain.errors import ConfigError
from segtrain.inference.crf.mean_field import Normalization, PairwiseTerm, mean_field
from segtrain.inference.score_map import ScoreMap
from segtrain.inference.strategy import Forward, Strategy


class DenseCRF(Strategy):
    """Refines another strategy's score map by the image: pixels that are near and look alike should share a label.

    The energy of a label map x, with p the softmax of the base's logits and q_i, I_i the position and channels of
    pixel i:

        E(x)   = sum_i -log p_i(x_i) + sum_{i<j} mu_s(x_i, x_j) k_s(i, j) + mu_b(x_i, x_j) k_b(i, j)
        k_s    = exp(-|q_i - q_j|^2 / (2 spatial_sigma^2))
        k_b    = exp(-|q_i - q_j|^2 / (2 bilateral_sigma_xy^2) - |I_i - I_j|^2 / (2 bilateral_sigma_rgb^2))

    What comes back is log Q after the last mean-field iteration: logits like any other. Images may have any number of
    channels, each an axis of the bilateral kernel.

    Args:
        base: the strategy whose score map is refined.
        iterations: of mean field, at least 1.
        spatial_weight: w, the cost of two labels that differ (Potts), at least 0; 0 leaves the kernel out. Or what
            each pair of labels costs: a matrix [C, C] of finite numbers, by rows; one below 0 rewards its pair, which
            Potts cannot.
        spatial_sigma: standard deviation of positions in pixels, > 0.
        bilateral_weight: as `spatial_weight`.
        bilateral_sigma_xy: standard deviation of positions in pixels, > 0.
        bilateral_sigma_rgb: of the channels' values, which go from 0 to 255, > 0; or a list of one for each channel.
        normalization: of both kernels; see `PairwiseTerm`.

    Raises:
        ConfigError: a number is out of its range; a matrix or list is not of the classes or channels.

    Source: Kraehenbuehl and Koltun 2011, arXiv:1210.5644, eq. 3; as used in DeepLab, arXiv:1412.7062, eq. 3.
    """

    def __init__(
        self,
        base: Strategy,
        iterations: int,
        spatial_weight: float | list[list[float]],
        spatial_sigma: float,
        bilateral_weight: float | list[list[float]],
        bilateral_sigma_xy: float,
        bilateral_sigma_rgb: float | list[float],
        normalization: Normalization,
    ) -> None:
        super().__init__()
        if iterations < 1:
            raise ConfigError(f"iterations={iterations} must be at least 1; without a CRF: the base alone")
        if normalization not in get_args(Normalization):
            raise ConfigError(f"normalization={normalization!r} is none of {', '.join(get_args(Normalization))}")
        _check_compatibility("spatial_weight", spatial_weight)
        _check_compatibility("bilateral_weight", bilateral_weight)
        _check_positive("spatial_sigma", spatial_sigma)
        _check_positive("bilateral_sigma_xy", bilateral_sigma_xy)
        _check_positive("bilateral_sigma_rgb", *_listed(bilateral_sigma_rgb))
        self.base = base
        self.iterations = iterations
        self.spatial_weight = spatial_weight
        self.spatial_sigma = spatial_sigma
        self.bilateral_weight = bilateral_weight
        self.bilateral_sigma_xy = bilateral_sigma_xy
        self.bilateral_sigma_rgb = bilateral_sigma_rgb
        self.normalization = normalization

    def forward(self, forward: Forward, images: Tensor) -> ScoreMap:
        logits = self.base(forward, images).full()
        return ScoreMap(torch.stack([self.refine(*each) for each in zip(images, logits, strict=True)]))

    def trace(self, forward: Forward, images: Tensor) -> Iterator[tuple[str, ScoreMap]]:
        scores = self.base(forward, images)
        yield "scores", scores
        runs = [self._iterations(*each) for each in zip(images, scores.full(), strict=True)]
        shape = (scores.num_classes, *images.shape[-2:])
        for number, updated in enumerate(zip(*runs, strict=True), start=1):
            maps = [each.log_softmax(dim=1).T.reshape(shape) for each in updated]
            yield f"iteration {number}", ScoreMap(torch.stack(maps))

    def refine(self, image: Tensor, logits: Tensor) -> Tensor:
        """[C, H, W]: log Q after the last iteration.

        Args:
            image: [channels, H, W] uint8.
            logits: [C, H, W] float32, at the image's size.
        """
        *_, last = self._iterations(image, logits)
        return last.log_softmax(dim=1).T.reshape(logits.shape)

    def _iterations(self, image: Tensor, logits: Tensor) -> Iterator[Tensor]:
        flat = logits.flatten(1).T.contiguous()
        return mean_field(flat, self._terms(image, len(logits)), self.iterations)

    def _terms(self, image: Tensor, num_classes: int) -> list[PairwiseTerm]:
        """The pairwise terms of one image, without those that cost nothing."""
        height, width = image.shape[-2:]
        y, x = torch.meshgrid(
            torch.arange(height, dtype=torch.float32, device=image.device),
            torch.arange(width, dtype=torch.float32, device=image.device),
            indexing="ij",
        )
        positions = torch.stack([x, y]).flatten(1)
        terms = []
        if (spatial := _compatibility("spatial_weight", self.spatial_weight, num_classes)) is not None:
            terms.append(PairwiseTerm(positions / self.spatial_sigma, spatial, self.normalization))
        if (bilateral := _compatibility("bilateral_weight", self.bilateral_weight, num_classes)) is not None:
            sigmas = torch.tensor(_listed(self.bilateral_sigma_rgb), device=image.device)[:, None]
            if len(sigmas) not in (1, len(image)):
                raise ConfigError(
                    f"bilateral_sigma_rgb={self.bilateral_sigma_rgb}: the image has {len(image)} channel(s); give one "
                    "number for each, or one for all"
                )
            features = torch.cat([positions / self.bilateral_sigma_xy, image.flatten(1).float() / sigmas])
            terms.append(PairwiseTerm(features, bilateral, self.normalization))
        return terms


def _listed(value: float | Sequence[float]) -> list[float]:
    return [float(item) for item in value] if isinstance(value, Sequence) else [float(value)]


def _check_positive(name: str, *values: float) -> None:
    for value in values:
        if not 0 < value < math.inf:
            raise ConfigError(f"{name}={value:g} must be a positive number; a kernel is left out by its weight, 0")


def _check_compatibility(name: str, value: float | list[list[float]]) -> None:
    if isinstance(value, list):
        if any(len(row) != len(value) for row in value):
            raise ConfigError(
                f"{name}: {len(value)} rows of {[len(row) for row in value]} numbers are no square matrix"
            )
        if any(not math.isfinite(cost) for row in value for cost in row):
            raise ConfigError(f"{name}={value}: every cost must be a finite number; 0 where a pair costs nothing")
    elif not 0 <= value < math.inf:
        raise ConfigError(f"{name}={value:g} must be at least 0; it is what labels that differ cost")


def _compatibility(name: str, value: float | list[list[float]], num_classes: int) -> float | Tensor | None:
    """A term's compatibility; None where it is 0."""
    if not isinstance(value, list):
        return value or None
    if len(value) != num_classes:
        raise ConfigError(f"{name}: a matrix of {len(value)} rows, but there are {num_classes} classes")
    return torch.tensor(value)
