"""The table of backbones in docs/models.md."""

import hydra
import torch
from omegaconf import OmegaConf
from torchvision.models import get_model_weights, list_models

from model_pictures.measure import CONFIGS, model_config
from segtrain.backbones.base import Backbone

STRIDES = (1, 2, 4, 8, 16, 32)
HEADER = (
    "| `model/backbone=` | parameters, M | " + " | ".join(f"{stride}" for stride in STRIDES) + " | ImageNet top-1, % |",
    "|---|--:|" + "--:|" * len(STRIDES) + "--:|",
)


def backbone_names() -> list[str]:
    """Every option of the group but timm's, which is whatever timm gives."""
    return sorted(path.stem for path in (CONFIGS / "model/backbone").glob("[!_]*.yaml") if path.stem != "timm")


def backbone_table() -> str:
    """All rows under their header."""
    return "\n".join((*HEADER, *map(backbone_row, backbone_names())))


def backbone_row(name: str) -> str:
    """Parameters, channels of the deepest feature at each stride, score of the published weights."""
    node = OmegaConf.to_container(model_config(f"model/backbone={name}").model.backbone)
    assert isinstance(node, dict)
    options = {str(key): value for key, value in node.items() if key != "_target_"}
    with torch.device("meta"):
        backbone: Backbone = hydra.utils.get_class(str(node["_target_"]))(in_channels=3, **options)
    parameters = sum(p.numel() for p in backbone.parameters()) / 1e6
    channels = {feature.stride: str(feature.channels) for feature in backbone.features}
    cells = [f"`{name}`", f"{parameters:.1f}", *(channels.get(stride, "") for stride in STRIDES), _accuracy(name)]
    return f"| {' | '.join(cells)} |"


def _accuracy(name: str) -> str:
    """What torchvision states for the weights of `weights=imagenet`; empty where they are not torchvision's."""
    classifier = name.removesuffix("_fc").removesuffix("_largefov")
    if classifier not in list_models():
        return ""
    accuracy: float = get_model_weights(classifier)["IMAGENET1K_V1"].meta["_metrics"]["ImageNet-1K"]["acc@1"]
    return f"{accuracy:.1f}"
