"""Channels, strides and dilation rates of a model as this package builds it, on torch's meta device."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from torch import Tensor, nn

from segtrain.backbones.base import Backbone
from segtrain.build import Builder
from segtrain.models.auxiliary import AuxiliaryHead
from segtrain.models.base import SegmentationModel
from segtrain.types import DataFacts, Feature

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
SIDE = 256  # of the image that is passed through: divisible by every stride


@dataclass(frozen=True)
class Measured:
    """What one forward pass of a model tells.

    Attributes:
        features: of the backbone, shallow to deep.
        rates: by feature, the dilations other than 1 of the convolutions between the feature before and it.
        maps: by module name, what the module gives: channels and stride.
        dilations: by name, of every convolution.
        heads: features that auxiliary heads read, where the config has such heads.
        parameters: of the whole model without auxiliary heads.
    """

    features: tuple[Feature, ...]
    rates: dict[str, tuple[int, ...]]
    maps: dict[str, Feature]
    dilations: dict[str, int]
    heads: tuple[str, ...]
    parameters: int

    def rate(self, prefix: str) -> int:
        """The largest dilation among the convolutions of a part."""
        return max(rate for name, rate in self.dilations.items() if name.startswith(f"{prefix}."))


def model_config(model: str, *overrides: str) -> DictConfig:
    """The section `model` of `segtrain train MODEL OVERRIDES`, nothing else."""
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return compose(overrides=[f"+{model}", *overrides])


def build(*overrides: str, num_classes: int = 21, in_channels: int = 3, auxiliary: bool = False) -> SegmentationModel:
    """The model of `segtrain train OVERRIDES`, without memory and without weights."""
    config = model_config(*overrides)
    with torch.device("meta"):
        model = Builder(config).model(DataFacts.of(num_classes, in_channels), pretrained=False, auxiliary=auxiliary)
    assert isinstance(model, SegmentationModel)
    return model.eval()


def measure(*overrides: str, num_classes: int = 21, in_channels: int = 3) -> Measured:
    """Builds a model and passes an image through it."""
    model = build(*overrides, num_classes=num_classes, in_channels=in_channels, auxiliary=True)
    maps: dict[str, Feature] = {}
    calls: list[tuple[nn.Module, Tensor]] = []
    images = torch.empty(1, in_channels, SIDE, SIDE, device="meta")
    with _recorded(model, maps, calls):
        features = model.backbone(images)
        encoded = len(calls)
        model(images)
    rates = _rates(model.backbone, features, calls[:encoded])
    dilations = {name: part.dilation[0] for name, part in model.named_modules() if isinstance(part, nn.Conv2d)}
    heads = tuple(head.feature for head in model.auxiliary.values() if isinstance(head, AuxiliaryHead))
    parameters = sum(p.numel() for name, p in model.named_parameters() if not name.startswith("auxiliary."))
    return Measured(model.backbone.features, rates, maps, dilations, heads, parameters)


@contextmanager
def _recorded(model: nn.Module, maps: dict[str, Feature], calls: list[tuple[nn.Module, Tensor]]) -> Iterator[None]:
    def record(name: str, module: nn.Module, _: object, output: object) -> None:
        if isinstance(output, Tensor) and output.dim() == 4:
            maps[name] = Feature(name, output.shape[1], SIDE // output.shape[-1])
            calls.append((module, output))

    handles = [module.register_forward_hook(partial(record, name)) for name, module in model.named_modules()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _rates(
    backbone: Backbone, features: dict[str, Tensor], calls: list[tuple[nn.Module, Tensor]]
) -> dict[str, tuple[int, ...]]:
    rates: dict[str, tuple[int, ...]] = {}
    found: list[int] = []
    names = iter(backbone.features)
    wanted = next(names)
    for i, (module, output) in enumerate(calls):
        if isinstance(module, nn.Conv2d) and module.kernel_size != (1, 1) and module.dilation[0] not in (1, *found):
            found.append(module.dilation[0])
        if output is features[wanted.name] and (i + 1 == len(calls) or calls[i + 1][1] is not output):
            rates[wanted.name] = tuple(found)
            found, wanted = [], next(names, wanted)
    return rates
