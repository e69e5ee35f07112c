"""From the bytes of an image to what a network takes."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from segtrain.errors import ConfigError


class Normalize(nn.Module):
    """uint8 [N, C, H, W] -> float32 (images / 255 - mean) / std, channel by channel, on the images' device.

    Images travel as bytes, a quarter of the size of floats, and become floats only here. `mean` and `std` belong to
    the data, not to the weights: they come from the config and stay out of the state dict.

    Args:
        mean: one value per channel, as a fraction of full brightness (ImageNet: 0.485, 0.456, 0.406).
        std: one value per channel, > 0, same unit.

    Raises:
        ConfigError: `mean` and `std` differ in length, or from the images' channels; a `std` is not positive.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        if len(mean) != len(std):
            raise ConfigError(f"mean has {len(mean)} values and std has {len(std)}: give one of each per image channel")
        if min(std, default=1.0) <= 0:
            raise ConfigError(f"std={list(std)}: a standard deviation must be positive")
        # In units of byte values, so that the images need no division by 255 of their own.
        self.register_buffer("mean", 255 * torch.tensor(mean, dtype=torch.float32).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", 255 * torch.tensor(std, dtype=torch.float32).view(1, -1, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        assert images.dtype == torch.uint8, f"images are normalised once, from uint8, not from {images.dtype}"
        channels, values = images.shape[1], self.mean.shape[1]
        if channels != values:
            raise ConfigError(
                f"images have {channels} channels but mean and std have {values} values: give one of each per channel"
            )
        return images.to(torch.float32).sub_(self.mean).div_(self.std)  # in place: .to() made the only copy needed
