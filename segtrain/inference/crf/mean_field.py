"""Mean-field inference in a fully connected CRF with Gaussian pairwise terms."""

from collections.abc import Iterator, Sequence
from typing import Literal

import torch
from torch import Tensor

from segtrain.inference.crf.lattice import Lattice

Normalization = Literal["symmetric", "before", "after", "none"]


class PairwiseTerm:
    """One kernel between all pairs of pixels, with what it costs two pixels to have the labels l and l'.

    Args:
        features: [d, N]: of each pixel, in units of the kernel's standard deviations.
        compatibility: mu(l, l'): a number w for the Potts model, w for l != l' and 0 for l = l'; or [C, C].
        normalization: of the kernel matrix K, with the diagonal matrix D of its row sums. symmetric:
            D^-1/2 K D^-1/2; before: K D^-1; after: D^-1 K; none: K.

    Source: Kraehenbuehl and Koltun 2011, arXiv:1210.5644, eq. 2 and 3; the normalisations are those of their code.
    """

    def __init__(self, features: Tensor, compatibility: float | Tensor, normalization: Normalization) -> None:
        lattice = Lattice(features)
        before, after = _factors(lattice, features, normalization)
        self._mu: Tensor | None = None
        if isinstance(compatibility, Tensor):
            self._mu = compatibility.to(features)
        else:
            # Of w sum_{l' != l} m(l') = w (sum m - m(l)) the first part is the same for all labels: softmax drops it.
            weight = torch.full_like(features[0], compatibility)
            after = weight if after is None else after * weight
        self._lattice = lattice.scaled(before, after)

    def message(self, beliefs: Tensor) -> Tensor:
        """[N, C]: minus the expected cost of each label, up to a number per pixel, given the beliefs [N, C]."""
        filtered = self._lattice.filter(beliefs)
        return filtered if self._mu is None else filtered @ -self._mu.T


def mean_field(logits: Tensor, terms: Sequence[PairwiseTerm], iterations: int) -> Iterator[Tensor]:
    """The beliefs after each iteration, as logits: softmax over the classes gives Q.

    All pixels are updated at once. Each starts with Q = softmax(logits).

    Args:
        logits: [N, C] float: minus the unary energies, up to a number per pixel.
        terms: the kernels; the energies of all are added.
        iterations: how many times to iterate.

    Yields:
        [N, C], a tensor of its own each time.

    Source: Kraehenbuehl and Koltun 2011, arXiv:1210.5644, Algorithm 1. As in their code, a pixel's own belief is among
    the messages that it receives.
    """
    beliefs = logits.softmax(dim=1)
    for iteration in range(iterations):
        updated = logits
        for term in terms:
            updated = term.message(beliefs).add_(updated)
        yield updated
        if iteration + 1 < iterations:
            beliefs = updated.softmax(dim=1)


def _factors(lattice: Lattice, features: Tensor, normalization: Normalization) -> tuple[Tensor | None, Tensor | None]:
    """[N] each: what values are multiplied with before the filter, and results after it; None: nothing."""
    if normalization == "none":
        return None, None
    sums = lattice.filter(torch.ones_like(features[0])[:, None])[:, 0]
    if normalization == "symmetric":
        root = sums.rsqrt()
        return root, root
    inverse = sums.reciprocal()
    return (inverse, None) if normalization == "before" else (None, inverse)
