"""The whole image at once."""

import torch.nn.functional as F
from torch import Tensor

from segtrain.errors import ConfigError
from segtrain.inference.strategy import Forward, Strategy


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

    def forward(self, forward: Forward, images: Tensor) -> Tensor:
        if self.scale == 1:
            return forward(images)
        height, width = images.shape[-2:]
        size = (max(1, round(height * self.scale)), max(1, round(width * self.scale)))
        resized = F.interpolate(images.float(), size=size, mode="bilinear", antialias=True, align_corners=False)
        logits = forward(resized.round().clamp(0, 255).byte())
        return F.interpolate(logits, size=(height, width), mode="bilinear", align_corners=False)
