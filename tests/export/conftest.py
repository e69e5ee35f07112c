"""Small models as exported files."""

from functools import cache
from pathlib import Path

import torch
from hydra.utils import get_class
from omegaconf import OmegaConf

from segtrain.construct import signature
from segtrain.export.described import SUFFIXES, Interface, describe
from segtrain.export.graph import ExportedGraph
from segtrain.export.reading import ExportedFile, read
from segtrain.export.writing import to_bytes
from segtrain.models.adapt import ModelOptions, adapt
from segtrain.models.base import SegmentationModel
from segtrain.nn.normalize import Normalize
from segtrain.types import DataFacts

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
NUM_CLASSES = 3
FACTS = DataFacts.of(NUM_CLASSES, 3)


@cache
def composed(*overrides: str) -> dict:
    from hydra import compose, initialize_config_dir

    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        node = OmegaConf.to_container(compose(overrides=list(overrides)).model, resolve=True)
    assert isinstance(node, dict)
    return node


def build(node: dict, **extra: object):
    return get_class(node["_target_"])(**{key: value for key, value in node.items() if key != "_target_"} | extra)


def model_of(name: str, *overrides: str, num_classes: int = NUM_CLASSES) -> SegmentationModel:
    """A model whose every parameter and statistic says something, so that a forgotten one shows."""
    torch.manual_seed(0)
    node = dict(composed(f"+model={name}", *overrides))
    guest = ModelOptions(**{key: node.pop(key) for key in signature(ModelOptions)[0] if key in node})
    backbone = build(node.pop("backbone"), in_channels=3)
    model = build(node, backbone=backbone, num_classes=num_classes)
    adapt(model, guest, {})
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.any():
                parameter.normal_(std=0.05)
        for key, buffer in model.named_buffers():
            if key.endswith("running_mean"):
                buffer.normal_(std=0.1)
            elif key.endswith("running_var"):
                buffer.uniform_(0.5, 1.5)
    return model.eval()


def small_unet(num_classes: int = NUM_CLASSES) -> SegmentationModel:
    return model_of("unet", *UNET, num_classes=num_classes)


UNET = (
    *("model.decoder_channels=[4,4]", "model.backbone.channels=[4,4,8]"),
    *("model.batch_norm=true", "model.backbone.batch_norm=true"),
)


def exported(
    model: torch.nn.Module, interface: Interface, file_format: str = "onnx", facts: DataFacts = FACTS
) -> ExportedFile:
    """`model`, written to bytes and read back."""
    normalize = Normalize(facts.mean, facts.std) if interface.normalize else None
    graph = ExportedGraph(model, normalize, interface.outputs, facts.threshold).eval()
    metadata = describe(facts, interface, "{}")
    data = to_bytes(graph, file_format, facts.in_channels, interface.size, metadata, opset=20)
    name = Path(f"m{SUFFIXES[file_format]}")
    return read(data, name, torch.device("cpu"), trusted=("pickle",))


def bytes_of_images(number: int, height: int, width: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(height * width)
    return torch.randint(256, (number, 3, height, width), dtype=torch.uint8, generator=generator)
