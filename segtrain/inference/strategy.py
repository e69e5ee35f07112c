"""What an inference strategy is."""

from collections.abc import Callable, Iterator

import torch.nn.functional as F
from torch import Tensor, nn

from segtrain.inference.score_map import ScoreMap

# uint8 images [N, C, H, W] -> what the model says of them.
Forward = Callable[[Tensor], ScoreMap]


class Strategy(nn.Module):
    """How images of any size are brought before a model, and what becomes of its logits.

    Called as `strategy(forward, images)` with uint8 images [N, C, H, W]; returns a `ScoreMap` whose `full()` has the
    images' size. A strategy owns no weights and may call `forward` any number of times, with images of any size. One
    that works on what another gives has it as `base`; what it returns may be log-probabilities, which are logits too.
    """

    def forward(self, forward: Forward, images: Tensor) -> ScoreMap:
        raise NotImplementedError

    def trace(self, forward: Forward, images: Tensor) -> Iterator[tuple[str, ScoreMap]]:
        """The stages on the way to the result, each with its name; the last is what calling returns.

        The first is called "scores": what comes out of the model. A strategy that refines it by iterations goes on with
        its log-probabilities after each of them: "iteration 1", "iteration 2", ...
        """
        yield "scores", self(forward, images)


def resize_images(images: Tensor, size: tuple[int, int]) -> Tensor:
    """uint8 images [N, C, H, W] at another size: bilinear; reducing averages over source pixels (antialiased)."""
    if images.shape[-2:] == size:
        return images
    resized = F.interpolate(images.float(), size=size, mode="bilinear", antialias=True, align_corners=False)
    return resized.round().clamp(0, 255).byte()


def scaled(images: Tensor, scale: float) -> tuple[int, int]:
    """Height and width of `images` times `scale`, at least 1."""
    height, width = images.shape[-2:]
    return max(1, round(height * scale)), max(1, round(width * scale))
