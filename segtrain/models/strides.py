"""The way up from a backbone's deepest feature to the image, one halving of the stride after another."""

from collections.abc import Sequence

from torch import Tensor, nn

from segtrain.backbones.base import Backbone
from segtrain.errors import ConfigError
from segtrain.models.base import SegmentationModel
from segtrain.nn.anysize import divided_up
from segtrain.types import Feature


class HalvingModel(SegmentationModel):
    """Every stage of the decoder halves the stride and joins the backbone's feature there; the last is at the image's.

    A subclass appends a stage for each of `strides` by `add_stage`, called as stage(x, size, skip), and sets `head`,
    which makes logits of what the last one gives. Auxiliary heads can read what a stage gives, as `decoder8` the one at
    stride 8.

    Args:
        backbone: its deepest stride must be a power of two.

    Attributes:
        strides: of the stages, deep to shallow: for a backbone that ends at stride 32, (16, 8, 4, 2, 1).
        skip_features: what each stage joins: of several features of its stride, the deepest; None where there is none.

    Raises:
        ConfigError: the backbone ends at a stride that is no power of two.
    """

    head: nn.Module

    def __init__(self, backbone: Backbone, num_classes: int) -> None:
        super().__init__(backbone, num_classes)
        self.strides = strides_above(backbone)
        by_stride = {feature.stride: feature for feature in backbone.features}
        self.skip_features = tuple(by_stride.get(stride) for stride in self.strides)
        self.decoder = nn.ModuleList()

    def add_stage(self, stage: nn.Module, channels: int) -> None:
        """The next stage on the way up, which gives `channels`."""
        stride = self.strides[len(self.decoder)]
        self.decoder.append(stage)
        self.decoder_features += (Feature(f"decoder{stride}", channels, stride),)

    @property
    def skips(self) -> tuple[str | None, ...]:
        """The names of `skip_features`."""
        return tuple(skip.name if skip is not None else None for skip in self.skip_features)

    def decode(self, features: dict[str, Tensor], size: tuple[int, int]) -> Tensor:
        x = features[self.backbone.deepest.name]
        wanted = self.read_by_heads()
        for stage, given, skip in zip(self.decoder, self.decoder_features, self.skips, strict=True):
            x = stage(x, size_at(given.stride, size), features[skip] if skip is not None else None)
            if given.name in wanted:
                features[given.name] = x
        logits: Tensor = self.head(x)
        return logits


def strides_above(backbone: Backbone) -> tuple[int, ...]:
    """Powers of two below the stride of the backbone's deepest feature, down to 1; a ConfigError where it is none."""
    deepest = backbone.deepest.stride
    num_stages = deepest.bit_length() - 1
    if deepest != 2**num_stages:
        raise ConfigError(
            f"model.backbone: this model halves strides, but {type(backbone).__name__} ends at stride {deepest}, no "
            "power of two"
        )
    return tuple(2**i for i in reversed(range(num_stages)))


def size_at(stride: int, size: tuple[int, int]) -> tuple[int, int]:
    """Height and width at `stride` of an image of `size`, rounded up, as every backbone's features are."""
    height, width = size
    return divided_up(height, stride), divided_up(width, stride)


def stage_numbers(numbers: list[int], strides: Sequence[int], key: str) -> list[int]:
    """The last of `numbers`, one for each stride: the very last belongs to stride 1.

    Args:
        key: config key of `numbers`, for messages.

    Raises:
        ConfigError: they are too few, or not positive; the message says how many are needed.
    """
    used = numbers[max(0, len(numbers) - len(strides)) :]
    if len(used) < len(strides) or min(used, default=1) < 1:
        positive = [number for number in used if number > 0] or [16]
        example = [positive[0]] * (len(strides) - len(positive)) + positive
        raise ConfigError(
            f"{key}={numbers}: this backbone ends at stride {2 * strides[0]} and needs {len(strides)} positive "
            f"numbers, for strides {', '.join(map(str, strides))}; "
            f"for example {key}=[{','.join(map(str, example))}]"
        )
    return used
