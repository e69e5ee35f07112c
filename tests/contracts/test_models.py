"""The contract of every backbone and every model that has a YAML: a new file is tested by lying there.

Shapes are computed on torch's meta device, where a network costs no memory and hardly any time.
"""

import math
import re
from functools import cache, lru_cache
from pathlib import Path

import hydra
import pytest
import torch
import torch.distributed as dist
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from segtrain.backbones.base import Backbone
from segtrain.construct import signature
from segtrain.distributed.parallel import gathered, shard
from segtrain.distributed.world import World
from segtrain.errors import ConfigError
from segtrain.models.adapt import ModelOptions, adapt
from segtrain.models.auxiliary import AuxiliaryOptions
from segtrain.models.base import SegmentationModel
from segtrain.models.binary import give_two_logits

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
SIZES = [(32, 32), (33, 47), (65, 97)]
NUM_CLASSES = 3


def options_of(group):
    names = (path.stem for path in (CONFIGS / group).glob("*.yaml") if not path.stem.startswith("_"))
    return sorted(names, key=lambda name: [(text, int(n or 0)) for text, n in re.findall(r"(\D*)(\d*)", name)])


MODELS, BACKBONES = options_of("model"), options_of("model/backbone")
over_models = pytest.mark.parametrize("name", MODELS)
over_backbones = pytest.mark.parametrize("name", BACKBONES)
over_sizes = pytest.mark.parametrize("size", SIZES, ids="{0[0]}x{0[1]}".format)


@cache
def composed(*overrides):
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return OmegaConf.to_container(compose(overrides=list(overrides)).model, resolve=True)


def one_of_each(group, names):
    """The first option of each class: others of it differ in size alone."""
    first = {}
    for name in names:
        node = composed(f"+{group}={name}")
        first.setdefault((node["backbone"] if group == "model/backbone" else node)["_target_"], name)
    return list(first.values())


def build(node, **extra):
    """What build.py does, without its checks: these tests are about the classes."""
    options = {key: value for key, value in node.items() if key != "_target_"}
    return hydra.utils.get_class(node["_target_"])(**options | extra)


def build_backbone(name, device="meta", **overrides) -> Backbone:
    torch.manual_seed(0)
    with torch.device(device):
        return build(composed(f"+model/backbone={name}")["backbone"] | overrides, in_channels=3)


def build_model(name, *overrides, device="meta", num_classes=NUM_CLASSES) -> SegmentationModel:
    torch.manual_seed(0)
    node = dict(composed(f"+model={name}", *overrides))
    guest = ModelOptions(**{key: node.pop(key) for key in signature(ModelOptions)[0] if key in node})
    with torch.device(device):
        backbone = build(node.pop("backbone"), in_channels=3)
        model = build(node, backbone=backbone, num_classes=num_classes)
        adapt(model, guest, {name: AuxiliaryOptions(**head) for name, head in guest.aux.items()})
    return model


backbone_of = lru_cache(maxsize=2)(build_backbone)
model_of = lru_cache(maxsize=2)(build_model)


def images_of(size, batch=1, device="meta"):
    return torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(0)).to(device)


FIRSTS = one_of_each("model/backbone", BACKBONES)
# Within a class only the sizes can go wrong: one mode will do for the rest.
MODES = [
    (name, batch, training)
    for name in BACKBONES
    for batch, training in [(1, True), (1, False), (2, True), (2, False)][: 4 if name in FIRSTS else 1]
]


@pytest.mark.parametrize(("name", "batch", "training"), MODES)
@over_sizes
def test_declared_features_are_what_a_backbone_gives(name, size, batch, training):
    backbone = backbone_of(name).train(training)
    given = {key: tuple(x.shape) for key, x in backbone(images_of(size, batch)).items()}
    height, width = size
    declared = {
        f.name: (batch, f.channels, math.ceil(height / f.stride), math.ceil(width / f.stride))
        for f in backbone.features
    }
    assert given == declared


@pytest.mark.parametrize("name", FIRSTS)
def test_backward_reaches_every_parameter_of_a_backbone(name):
    never_skipped = (
        {"stochastic_depth": 0.0} if "stochastic_depth" in composed(f"+model/backbone={name}")["backbone"] else {}
    )
    backbone = build_backbone(name, device="cpu", **never_skipped).train()
    sum(x.square().mean() for x in backbone(images_of((33, 47), 2, device="cpu")).values()).backward()
    missed = [key for key, p in backbone.named_parameters() if p.grad is None or not p.grad.any()]
    assert missed == []


@pytest.mark.parametrize("name", FIRSTS)
def test_group_norm_takes_a_single_image_whose_map_is_one_pixel(name):
    model = build_model("unet_light", f"model/backbone={name}", "model.norm=group")
    assert model(images_of((32, 32))).logits.shape == (1, NUM_CLASSES, 32, 32)


@over_backbones
def test_features_go_from_shallow_to_deep(name):
    strides = [feature.stride for feature in backbone_of(name).features]
    assert strides == sorted(strides)


@pytest.mark.parametrize("output_stride", [8, 16])
@over_backbones
def test_output_stride_is_the_deepest_features(name, output_stride):
    if "output_stride" not in composed(f"+model/backbone={name}")["backbone"]:
        pytest.skip("has no such option")
    backbone = build_backbone(name, output_stride=output_stride)
    assert backbone.deepest.stride == output_stride
    for feature, x in zip(backbone.features, backbone(images_of((33, 47))).values(), strict=True):
        assert x.shape[-2:] == (math.ceil(33 / feature.stride), math.ceil(47 / feature.stride))


@over_models
@over_sizes
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_logits_have_the_size_of_the_images(name, size, batch, training):
    output = model_of(name).train(training)(images_of(size, batch))
    assert output.logits.shape == (batch, NUM_CLASSES, *size)
    assert all(logits.shape == output.logits.shape for logits in output.aux.values())
    assert set(output.aux) == (set(model_of(name).aux_weights) if training else set())


@over_models
def test_a_model_of_one_channel_is_one_of_a_binary_task(name):
    model = build_model(name, num_classes=1)
    parameters = list(model.state_dict())
    give_two_logits(model)
    output = model.train()(images_of((33, 47), 2))
    assert {logits.shape for logits in (output.logits, *output.aux.values())} == {(2, 2, 33, 47)}
    assert list(model.state_dict()) == parameters


@over_models
@pytest.mark.parametrize(("size", "batch"), [((32, 32), 1), ((65, 97), 2)], ids=["smallest", "largest"])
def test_logits_are_finite_and_backward_reaches_every_parameter(name, size, batch):
    model = model_of(name, device="cpu").train()
    model.zero_grad()
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.any():  # a layer that starts at zero passes nothing on before the first step
                parameter.normal_(std=0.01)
    output = model(images_of(size, batch, device="cpu"))
    assert all(logits.isfinite().all() for logits in (output.logits, *output.aux.values()))
    sum(logits.square().mean() for logits in (output.logits, *output.aux.values())).backward()
    missed = [key for key, p in model.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
    assert missed == []


@pytest.mark.slow
@pytest.mark.parametrize("backbone", FIRSTS)
@over_models
def test_a_model_runs_over_a_backbone_or_says_in_one_line_why_not(name, backbone):
    try:
        model = build_model(name, f"model/backbone={backbone}")
    except ConfigError as error:
        refusal = str(error)
    except TypeError as error:  # an option the backbone does not have; build.py checks before it calls
        refusal = f"model.backbone: {error}"
    else:
        assert model(images_of((33, 47))).logits.shape == (1, NUM_CLASSES, 33, 47)
        return
    assert re.fullmatch(r"model[.=].*", refusal)


@pytest.mark.parametrize("backbone", ["resnet18", "googlenet", "densenet121", "seresnet18", "efficientnet_b0"])
@pytest.mark.parametrize(
    "name",
    [
        "fcn32s",
        "fcn16s",
        "fcn8s",
        "fcn",
        "unet",
        "deeplabv1",
        "deeplabv2",
        "deeplabv3",
        "deeplabv3plus",
        "pspnet",
        "upernet",
    ],
)
def test_the_usual_backbones_carry_the_usual_models(name, backbone):
    assert build_model(name, f"model/backbone={backbone}")(images_of((65, 97))).logits.shape == (1, NUM_CLASSES, 65, 97)


@pytest.mark.parametrize("name", one_of_each("model", MODELS))
def test_a_model_compiles_as_one_graph(name):
    """Captured whole, without falling back to Python; what a compiler makes of the graph is torch's business."""
    small = composed(f"+model={name}")["backbone"]["_target_"].endswith(".ResNet")
    model = build_model(name, *(["model/backbone=resnet18"] if small else []), device="cpu").eval()
    images = images_of((33, 47), device="cpu")
    torch._dynamo.reset()
    with torch.no_grad():
        expected = model(images).logits
        logits = torch.compile(model, backend="eager", fullgraph=True)(images).logits
    torch.testing.assert_close(logits, expected)


@pytest.mark.parametrize("group", ["model", "model/backbone", "model/aux"])
def test_every_config_begins_with_what_it_is_and_how_to_use_it(group):
    for name in options_of(group):
        first, second = (CONFIGS / group / f"{name}.yaml").read_text().splitlines()[:2]
        assert first.startswith("# "), name
        assert second.startswith("# segtrain "), name


def shared_out_and_not(folder: Path, host: str, *overrides: str) -> tuple[float, float]:
    """The gradient's norm of a model as it is, and with its parameters shared out, in a process group of one."""
    store = dist.FileStore(str(folder / "store"), 1)
    dist.init_process_group("gloo", rank=0, world_size=1, store=store)
    try:
        norms = []
        for sharded in (False, True):
            model = build_model(host, *overrides, device="cpu").train()
            if sharded:
                shard(model, World.solo(torch.device("cpu")), torch.zeros(1, 3, 64, 64))
            torch.manual_seed(1)
            output = model(torch.randn(2, 3, 33, 47))
            (output.logits.sum() + sum(logits.sum() for logits in output.aux.values())).backward()
            gradients = gathered([parameter.grad for parameter in model.parameters()])
            norms.append(float(torch.stack([gradient.norm() for gradient in gradients]).norm()))
    finally:
        dist.destroy_process_group()
    return norms[0], norms[1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("host", "overrides"),
    [
        *((name, ()) for name in one_of_each("model", MODELS)),
        *(("unet", (f"model/backbone={name}",)) for name in one_of_each("model/backbone", BACKBONES)),
        ("deeplabv3plus", ("model.activation_checkpointing=true",)),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else value,
)
def test_parameters_of_every_model_can_be_shared_out(tmp_path: Path, host: str, overrides: tuple[str, ...]) -> None:
    plain, sharded = shared_out_and_not(tmp_path, host, *overrides)
    assert plain > 0
    assert sharded == pytest.approx(plain, rel=1e-3)
