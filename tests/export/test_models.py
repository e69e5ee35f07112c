"""Exported models give the logits of the model they were made of, for images of any number and size."""

import re
import sys
from pathlib import Path

import pytest
import torch

from segtrain.errors import CheckpointError, ConfigError
from segtrain.export import reading, writing
from segtrain.export.described import Interface
from segtrain.export.graph import ExportedGraph
from segtrain.inference import Predictor, SlidingWindow, WholeImage
from segtrain.models.binary import give_two_logits
from segtrain.nn.normalize import Normalize
from segtrain.types import DataFacts, Hardware
from tests.export.conftest import CONFIGS, FACTS, NUM_CLASSES, bytes_of_images, exported, model_of, small_unet

SIZES = [(1, 65, 97), (3, 64, 96), (1, 33, 47), (2, 100, 131)]
LOGITS = Interface(normalize=False, outputs="logits", size=None)
CPU = Hardware(torch.device("cpu"), None, torch.contiguous_format, loss_scaling=False)


def largest_difference(model: torch.nn.Module, given: torch.nn.Module) -> float:
    """Over all sizes, as a part of the largest logit."""
    found = []
    for number, height, width in SIZES:
        images = torch.randn(number, 3, height, width, generator=torch.Generator().manual_seed(1))
        with torch.inference_mode():
            expected, logits = model(images).logits, given(images).logits
        assert logits.shape == (number, NUM_CLASSES, height, width)
        found.append(float((logits - expected).abs().max() / expected.abs().max()))
    return max(found)


@pytest.mark.parametrize("file_format", ["onnx", "torchscript", pytest.param("torch_export", marks=pytest.mark.slow)])
def test_an_exported_model_gives_the_logits_at_any_number_and_size(file_format: str) -> None:
    model = small_unet()
    assert largest_difference(model, exported(model, LOGITS, file_format).model) < 1e-4


# Over a small backbone, or of few channels and layers: every way of looking at sizes is in them all the same.
SMALL_VGG = ["model.backbone.name=vgg11", "model.backbone.fc_channels=64"]
SMALL_DENSE = ["model.backbone.layers=[2,2,2,2,2,2]", "model.layers=[2,2,2,2,2]"]
SMALL = {
    **dict.fromkeys(("fcn8s", "fcn8s_atonce", "fcn16s", "fcn32s"), SMALL_VGG),
    **dict.fromkeys(("fcdensenet56", "fcdensenet67", "fcdensenet103"), SMALL_DENSE),
    "unet": ["model.decoder_channels=[8,8,8,8,4]", "model.backbone.channels=[4,8,8,8,8]"],
    "fcn": ["model/backbone=resnet18"],
    "deeplabv1": ["model/backbone=vgg11_bn"],
    "deeplabv2": ["model/backbone=resnet18", "model.branch_channels=null", "model.dropout=0"],
    "deeplabv3": ["model/backbone=resnet18", "model.channels=32"],
    "deeplabv3plus": ["model/backbone=mobilenet_v2", "model.channels=32"],
    "pspnet": ["model/backbone=resnet18", "model.channels=32"],
    "upernet": ["model/backbone=resnet18", "model.channels=32"],
}
MODELS = sorted(path.stem for path in (CONFIGS / "model").glob("*.yaml") if not path.stem.startswith("_"))
FAMILIES = [
    *((name, SMALL.get(name, [])) for name in MODELS),
    *(("unet_light", [f"model/backbone={name}"]) for name in ("densenet121", "efficientnet_b0", "googlenet")),
    *(("unet_light", [f"model/backbone={name}"]) for name in ("mobilenet_v3_small", "seresnet18", "xception65")),
    ("unet_light", ["model/backbone=densenet121", "model.backbone.output_stride=8"]),
    ("deeplabv3", ["model/backbone=resnet18", "model.backbone.deformable_stages=[5]"]),
    ("pspnet", ["model/backbone=resnet18", "model.pooling=max"]),
    ("unet", [*SMALL["unet"], "model.attention=true", "model.upsampling=bilinear"]),
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "overrides"),
    FAMILIES,
    ids=lambda value: value if isinstance(value, str) else " ".join(value) or "as it is",
)
def test_every_model_becomes_an_onnx_file_and_a_torchscript_file(name: str, overrides: list[str]) -> None:
    model = model_of(name, *overrides)
    # onnxruntime interpolates deformed taps a little otherwise than torchvision does.
    tolerance = 1e-3 if "deformable" in str(overrides) else 1e-4
    assert largest_difference(model, exported(model, LOGITS, "onnx").model) < tolerance
    assert largest_difference(model, exported(model, LOGITS, "torchscript").model) < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("name", ["deeplabv2", "pspnet", "fcn8s", "unet_light"])
def test_torch_export_holds_models_that_look_at_sizes(name: str) -> None:
    model = model_of(name, *SMALL.get(name, []))
    assert largest_difference(model, exported(model, LOGITS, "torch_export").model) < 1e-4


def test_uint8_images_are_normalised_inside_where_asked() -> None:
    model, images = small_unet(), bytes_of_images(3, 33, 47)
    file = exported(model, Interface(True, "logits", None), "torchscript")
    with torch.inference_mode():
        expected = model(Normalize(FACTS.mean, FACTS.std)(images)).logits
        assert (file.model(images).logits - expected).abs().max() < 1e-4


def test_probabilities_and_labels_are_those_of_the_logits() -> None:
    model, images = small_unet(), bytes_of_images(2, 33, 47)
    with torch.inference_mode():
        logits = model(Normalize(FACTS.mean, FACTS.std)(images)).logits
        given = exported(model, Interface(True, "probabilities", None), "torchscript").model
        assert (given.answer(images) - logits.softmax(dim=1)).abs().max() < 1e-5
        assert (given(images).logits.softmax(dim=1) - logits.softmax(dim=1)).abs().max() < 1e-5
        labels = exported(model, Interface(True, "labels", None)).model.answer(images)
    assert labels.dtype == torch.int64
    assert float((labels == logits.argmax(dim=1)).float().mean()) > 0.999


def test_labels_of_a_binary_task_are_decided_by_its_threshold() -> None:
    facts = DataFacts(("rest", "disc"), ((0, 0, 0), (1, 1, 1)), 255, 3, (0.5,) * 3, (0.25,) * 3, threshold=0.3)
    model, images = small_unet(num_classes=1), bytes_of_images(1, 40, 40)
    give_two_logits(model)
    with torch.inference_mode():
        probability = model(Normalize(facts.mean, facts.std)(images)).logits.softmax(dim=1)[:, 1]
        labels = exported(model, Interface(True, "labels", None), "torchscript", facts).model.answer(images)
    expected = (probability >= 0.3).long()
    assert (expected != (probability >= 0.5)).any(), "another threshold would give the same"
    assert float((labels == expected).float().mean()) > 0.999


@pytest.mark.parametrize("strategy", [WholeImage(1.0), WholeImage(0.5)], ids=["whole", "half"])
def test_strategies_work_around_an_exported_model(strategy: WholeImage) -> None:
    model, images = small_unet(), bytes_of_images(2, 65, 50)
    normalize = Normalize(FACTS.mean, FACTS.std)
    given = Predictor(exported(model, LOGITS, "torchscript").model, normalize, strategy, CPU)
    expected = Predictor(model, normalize, strategy, CPU).logits(images)
    assert (given.logits(images) - expected).abs().max() < 1e-4


def test_a_file_of_one_size_says_so_and_works_in_windows_of_that_size() -> None:
    model, images = small_unet(), bytes_of_images(1, 64, 96)
    file = exported(model, Interface(True, "logits", (64, 64)), "torchscript")
    with pytest.raises(ConfigError, match="takes images of 64x64 only, not of 64x96"):
        file.model(images)
    windows = SlidingWindow(
        size=[64, 64], stride=[32, 32], overlap=None, blend="uniform", sigma=0.125, batch_size=2, memory=None
    )
    given = Predictor(file.model, torch.nn.Identity(), windows, CPU).logits(images)
    expected = Predictor(model, Normalize(FACTS.mean, FACTS.std), windows, CPU).logits(images)
    assert (given - expected).abs().max() < 1e-4


@pytest.mark.parametrize("name", ["m.onnx", "m.torchscript", "m.pt2"])
def test_what_is_no_exported_file_is_refused_in_one_line(name: str) -> None:
    with pytest.raises(CheckpointError, match=rf"{re.escape(name)}: damaged, or no file of format=[^\n]*\Z"):
        reading.read(b"no model" * 100, Path(name), torch.device("cpu"), trusted=("pickle",))


def test_pickled_files_are_not_read_without_trust() -> None:
    with pytest.raises(CheckpointError, match=r"m\.pt2: .*trust=\[pickle\]"):
        reading.read(b"", Path("m.pt2"), torch.device("cpu"))


def test_a_model_that_no_exporter_takes_is_refused_in_one_line_that_names_what_to_try() -> None:
    class Choosy(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            if images.mean() > 0:
                return images
            return -images

    graph = ExportedGraph(Choosy(), None, "logits", None)
    with pytest.raises(ConfigError, match=r"format=onnx: torch cannot export this model \([^\n]*\); try format=torch"):
        writing.to_bytes(graph, "onnx", 3, None, {}, opset=20)


def test_a_missing_package_is_named_with_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("onnxscript", "onnxruntime"):
        monkeypatch.setitem(sys.modules, package, None)
    graph = ExportedGraph(small_unet(), None, "logits", None)
    with pytest.raises(ConfigError, match=r"onnx and onnxscript: pip install segtrain\[onnx\]"):
        writing.to_bytes(graph, "onnx", 3, None, {}, opset=20)
    with pytest.raises(ConfigError, match=r"onnxruntime: pip install segtrain\[onnx\]"):
        reading.read(b"", Path("m.onnx"), torch.device("cpu"))
