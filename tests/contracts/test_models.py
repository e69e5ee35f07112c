"""The contract of every backbone and every model that has a YAML: a new file is tested by lying there."""

import math
from functools import cache
from pathlib import Path

import hydra
import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from segtrain.backbones.base import Backbone
from segtrain.models.base import SegmentationModel

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
MODELS = sorted(path.stem for path in (CONFIGS / "model").glob("*.yaml"))
BACKBONES = sorted(path.stem for path in (CONFIGS / "model" / "backbone").glob("*.yaml"))
SIZES = [(32, 32), (33, 47), (65, 97)]
NUM_CLASSES = 3

over_models = pytest.mark.parametrize("name", MODELS)
over_backbones = pytest.mark.parametrize("name", BACKBONES)
over_sizes = pytest.mark.parametrize("size", SIZES, ids="{0[0]}x{0[1]}".format)


def build(node, **extra):
    """What build.py does, without its checks: these tests are about the classes."""
    options = OmegaConf.to_container(node)
    return hydra.utils.get_class(options.pop("_target_"))(**options | extra)


def composed(*overrides):
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return compose(overrides=list(overrides)).model


@cache
def backbone_of(name, **overrides) -> Backbone:
    torch.manual_seed(0)
    options = [f"model.backbone.{key}={value}" for key, value in overrides.items()]
    return build(composed(f"+model/backbone={name}", *options).backbone, in_channels=3)


@cache
def model_of(name, backbone=None) -> SegmentationModel:
    torch.manual_seed(0)
    node = composed(f"+model={name}", *([f"model/backbone={backbone}"] if backbone else []))
    return build(node, backbone=build(node.backbone, in_channels=3), num_classes=NUM_CLASSES)


def images_of(size, batch=1):
    return torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(0))


@over_backbones
@over_sizes
def test_declared_features_are_what_a_backbone_gives(name, size):
    backbone = backbone_of(name).eval()
    with torch.no_grad():
        given = {key: tuple(x.shape) for key, x in backbone(images_of(size)).items()}
    height, width = size
    declared = {
        f.name: (1, f.channels, math.ceil(height / f.stride), math.ceil(width / f.stride)) for f in backbone.features
    }
    assert given == declared


@over_backbones
def test_features_go_from_shallow_to_deep(name):
    strides = [feature.stride for feature in backbone_of(name).features]
    assert strides == sorted(strides)


@pytest.mark.parametrize("output_stride", [8, 16])
@pytest.mark.parametrize(
    "name", [name for name in BACKBONES if "output_stride" in (CONFIGS / f"model/backbone/{name}.yaml").read_text()]
)
def test_output_stride_is_the_deepest_features(name, output_stride):
    backbone = backbone_of(name, output_stride=output_stride).eval()
    assert backbone.deepest.stride == output_stride
    with torch.no_grad():
        assert backbone(images_of((33, 47)))[backbone.deepest.name].shape[-2:] == (
            math.ceil(33 / output_stride),
            math.ceil(47 / output_stride),
        )


@over_models
@over_sizes
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_logits_have_the_size_of_the_images(name, size, batch, training):
    model = model_of(name).train(training)
    with torch.no_grad():
        output = model(images_of(size, batch))
    assert output.logits.shape == (batch, NUM_CLASSES, *size)
    assert output.logits.isfinite().all()
    assert training or not output.aux


@over_models
@pytest.mark.parametrize(("size", "batch"), [((32, 32), 1), ((65, 97), 2)], ids=["smallest", "largest"])
def test_backward_reaches_every_parameter(name, size, batch):
    model = model_of(name).train()
    model.zero_grad()
    output = model(images_of(size, batch))
    sum(logits.square().mean() for logits in (output.logits, *output.aux.values())).backward()
    missed = [key for key, p in model.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
    assert missed == []


@over_models
@pytest.mark.parametrize("backbone", BACKBONES)
def test_every_backbone_carries_every_model(name, backbone):
    model = model_of.__wrapped__(name, backbone).eval()  # not kept: some are large
    with torch.no_grad():
        assert model(images_of((33, 47))).logits.shape == (1, NUM_CLASSES, 33, 47)


@pytest.mark.parametrize("path", ["model", "model/backbone"])
def test_every_config_begins_with_what_it_is_and_how_to_use_it(path):
    for file in (CONFIGS / path).glob("*.yaml"):
        first, second = file.read_text().splitlines()[:2]
        assert first.startswith("# "), file.name
        assert second.startswith("# segtrain train "), file.name
