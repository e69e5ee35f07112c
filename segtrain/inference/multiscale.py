"""The image at several scales, and mirrored."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from segtrain.errors import ConfigError
from segtrain.inference.score_map import Resize, ScoreMap
from segtrain.inference.strategy import Forward, Strategy, resize_images, scaled

HEIGHT, WIDTH = -2, -1


class MultiScale(Strategy):
    """Shows the image at every scale and in every mirroring, and averages the answers at the image's own size.

    Args:
        scales: factors on height and width, each in (0, 4].
        flip_horizontal: show each also with left and right exchanged.
        flip_vertical: likewise top and bottom; with both, four mirrorings.
        average: probabilities: the mean of what softmax makes of each answer, returned as its logarithm. logits: the
            mean of the logits, in which one confident answer counts for more.
        base: how each is shown to the model.

    Raises:
        ConfigError: no scale, or one outside (0, 4].
    """

    def __init__(
        self,
        scales: list[float],
        flip_horizontal: bool,
        flip_vertical: bool,
        average: Literal["probabilities", "logits"],
        base: Strategy,
    ) -> None:
        super().__init__()
        if not scales or not all(0 < scale <= 4 for scale in scales):
            raise ConfigError(f"scales={scales}: give one or more numbers in (0, 4], such as [0.75, 1.0, 1.25]")
        self.scales = scales
        self.mirrorings = _mirrorings(flip_horizontal, flip_vertical)
        self.average = average
        self.base = base

    def forward(self, forward: Forward, images: Tensor) -> ScoreMap:
        height, width = images.shape[-2:]
        total: Tensor | None = None
        for scale in self.scales:
            resized = resize_images(images, scaled(images, scale))
            for axes in self.mirrorings:
                scores = self.base(_mirrored(forward, axes), resized).then(Resize(height, width)).full()
                part = scores.softmax(dim=1) if self.average == "probabilities" else scores.clone()
                total = part if total is None else total.add_(part)
        assert total is not None
        mean = total.div_(len(self.scales) * len(self.mirrorings))
        if self.average == "probabilities":
            mean = mean.clamp_(min=torch.finfo(mean.dtype).tiny).log_()
        return ScoreMap(mean)


def _mirrorings(horizontal: bool, vertical: bool) -> list[tuple[int, ...]]:
    """The axes along which each mirroring turns the image, the image as it stands first."""
    found: list[tuple[int, ...]] = [()]
    for axis, wanted in ((WIDTH, horizontal), (HEIGHT, vertical)):
        found += [(*axes, axis) for axes in found] if wanted else []
    return found


def _mirrored(forward: Forward, axes: tuple[int, ...]) -> Callable[[Tensor], ScoreMap]:
    """`forward` as an observer in front of a mirror knows it: the image is turned, and the answer turned back."""
    if not axes:
        return forward

    def mirrored(images: Tensor) -> ScoreMap:
        answer = forward(images.flip(axes))
        return ScoreMap(answer.values.flip(axes), answer.resizes)

    return mirrored
