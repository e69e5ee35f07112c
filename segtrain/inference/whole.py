"""The whole image at once."""

from torch import Tensor

from segtrain.errors import ConfigError
from segtrain.inference.score_map import Resize, ScoreMap
from segtrain.inference.strategy import Forward, Strategy, resize_images, scaled


class WholeImage(Strategy):
    """The whole image in one forward pass, at its own size or resized by `scale`.

    Logits come back at the image's own size, by bilinear interpolation, so that scores are always those of the
    full-resolution label map.

    Args:
        scale: factor on height and width before the model sees the image, in (0, 4]. A model trained on images
            reduced to half wants 0.5. Reducing averages over source pixels (antialiased bilinear).

    Raises:
        ConfigError: `scale` is outside (0, 4].
    """

    def __init__(self, scale: float) -> None:
        super().__init__()
        if not 0 < scale <= 4:
            raise ConfigError(f"scale={scale} is outside (0, 4]; 1.0 keeps the image's size")
        self.scale = scale

    def forward(self, forward: Forward, images: Tensor) -> ScoreMap:
        return resized(forward, images, scaled(images, self.scale))


class FixedSize(Strategy):
    """Every image resized to one size, whatever its shape, in one forward pass; logits come back at its own.

    For models that were trained so, and exported ones that take nothing else. It changes an image's proportions.

    Args:
        size: height and width in pixels.

    Raises:
        ConfigError: `size` is no two positive numbers.
    """

    def __init__(self, size: list[int]) -> None:
        super().__init__()
        if len(size) != 2 or min(size) < 1:
            raise ConfigError(f"size={size}: give height and width in pixels, such as [512, 512]")
        self.height, self.width = size

    def forward(self, forward: Forward, images: Tensor) -> ScoreMap:
        return resized(forward, images, (self.height, self.width))


def resized(forward: Forward, images: Tensor, size: tuple[int, int]) -> ScoreMap:
    """What `forward` says of the images at `size`, on its way back to theirs."""
    height, width = images.shape[-2:]
    return forward(resize_images(images, size)).then(Resize(height, width))
