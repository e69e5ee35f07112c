"""The way up from a backbone's deepest feature to the image, one halving of the stride after another."""

from collections.abc import Sequence

from segtrain.backbones.base import Backbone
from segtrain.errors import ConfigError
from segtrain.types import Feature


def strides_above(backbone: Backbone) -> tuple[int, ...]:
    """Strides of a decoder's stages, deep to shallow: for a backbone that ends at stride 32, (16, 8, 4, 2, 1).

    Raises:
        ConfigError: the backbone ends at a stride that is no power of two.
    """
    deepest = backbone.deepest.stride
    num_stages = deepest.bit_length() - 1
    if deepest != 2**num_stages:
        raise ConfigError(
            f"model.backbone: this model halves strides, but {type(backbone).__name__} ends at stride {deepest}, no "
            "power of two"
        )
    return tuple(2**i for i in reversed(range(num_stages)))


def skips_at(backbone: Backbone, strides: Sequence[int]) -> list[Feature | None]:
    """The feature to join at each stride: of several, the deepest; None where the backbone has none."""
    features = {feature.stride: feature for feature in backbone.features}
    return [features.get(stride) for stride in strides]


def size_at(stride: int, size: tuple[int, int]) -> tuple[int, int]:
    """Height and width at `stride` of an image of `size`, rounded up, as every backbone's features are."""
    height, width = size
    return -(-height // stride), -(-width // stride)


def stage_numbers(numbers: list[int], strides: Sequence[int], key: str) -> list[int]:
    """The last of `numbers`, one for each stride: the very last belongs to stride 1.

    Args:
        key: config key of `numbers`, for messages.

    Raises:
        ConfigError: they are too few, or not positive; the message says how many are needed.
    """
    too_few = max(0, len(strides) - len(numbers))
    used = numbers[len(numbers) + too_few - len(strides) :]
    if too_few or min(used, default=1) < 1:
        positive = [number if number > 0 else 16 for number in used] or [16]
        example = [positive[0] * 2**i for i in range(too_few, 0, -1)] + positive
        raise ConfigError(
            f"{key}={numbers}: this backbone ends at stride {2 * strides[0]} and needs {len(strides)} positive "
            f"numbers, for strides {', '.join(map(str, strides))}; "
            f"for example {key}=[{','.join(map(str, example[-len(strides) :]))}]"
        )
    return used
