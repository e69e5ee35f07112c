"""`segtrain export`, and what `evaluate` and `predict` make of the file."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

import segtrain.commands.export as command
from segtrain.export.described import CHECKPOINT, KEYS
from segtrain.export.writing import SAMPLE_SIZE

RunCli = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def best(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint in a folder of its own, where files may be written beside it."""
    return Path(shutil.copy(finished_run / "checkpoints" / "best.pt", tmp_path_factory.mktemp("exported")))


@pytest.fixture(scope="module")
def onnx_file(best: Path, run_cli: RunCli) -> Path:
    code, out, err = run_cli("export", f"checkpoint={best}", "images=3")
    assert code == 0, err
    assert "3 images, 12,288 pixels: 100.0000 % have the same class" in out
    assert "change +0.0000 points" in out
    return best.with_suffix(".onnx")


def results(folder: Path) -> dict:
    return json.loads((folder / "results.json").read_text())


@pytest.mark.parametrize("overrides", [(), ("inference=slide", "inference.size=[32,32]", "data.num_val=3")])
def test_evaluate_finds_data_and_settings_in_the_file_and_takes_overrides(
    best: Path, onnx_file: Path, run_cli: RunCli, tmp_path: Path, overrides: tuple[str, ...]
) -> None:
    for file in (best, onnx_file):
        code, _, err = run_cli("evaluate", f"checkpoint={file}", f"output={tmp_path / file.suffix}", *overrides)
        assert code == 0, err
    expected, given = results(tmp_path / ".pt"), results(tmp_path / ".onnx")
    assert given["images"] == expected["images"] == (3 if overrides else 5)
    # Every pixel that changes class leaves one cell and enters another.
    moved = np.abs(np.array(given["confusion"]) - np.array(expected["confusion"])).sum() / 2
    assert moved <= 0.001 * np.sum(expected["confusion"])
    assert given["loss"]["loss"] == pytest.approx(expected["loss"]["loss"], rel=1e-4)
    assert given["step"] == expected["step"]


def test_predict_gives_the_label_maps_of_the_checkpoint(
    best: Path, onnx_file: Path, run_cli: RunCli, tmp_path: Path
) -> None:
    picture = tmp_path / "photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (33, 47, 3), dtype=np.uint8)).save(picture)
    for file in (best, onnx_file):
        code, _, err = run_cli(
            "predict", f"checkpoint={file}", f"input={picture}", f"output={tmp_path / file.suffix}", "save=[index]"
        )
        assert code == 0, err
    maps = [np.array(Image.open(tmp_path / suffix / "index" / "photo.png")) for suffix in (".pt", ".onnx")]
    assert maps[0].shape == (33, 47)
    assert (maps[0] == maps[1]).mean() > 0.999


def test_an_exported_model_runs_without_segtrains_models(onnx_file: Path, tmp_path: Path) -> None:
    program = (
        "import sys; from segtrain.cli import main; "
        f"code = main(['evaluate', 'checkpoint={onnx_file}', 'output={tmp_path}', 'data.num_val=1']); "
        "print(code, [name for name in sys.modules if name.startswith(('segtrain.models', 'segtrain.backbones'))])"
    )
    out = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert out.splitlines()[-1] == "0 []"


def test_the_file_says_all_about_itself_to_whoever_has_it_alone(onnx_file: Path, best: Path) -> None:
    import onnx

    model = onnx.load(onnx_file)
    onnx.checker.check_model(model, full_check=True)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    facts = torch.load(best, weights_only=True)["facts"]
    assert set(KEYS) <= set(metadata)
    for key in ("class_names", "palette", "ignore_index", "in_channels", "mean", "std", "threshold", "value_range"):
        assert json.loads(metadata[key]) == json.loads(json.dumps(facts[key])), key
    assert json.loads(metadata[CHECKPOINT])["config"]["data"]["_target_"] == "segtrain.data.shapes.Shapes"
    (images,), (output,) = model.graph.input, model.graph.output
    assert (images.name, output.name) == ("images", "output")
    free = [dim.HasField("dim_param") for dim in images.type.tensor_type.shape.dim]
    assert free == [True, False, True, True]


def test_overrides_of_the_export_travel_in_the_file(best: Path, run_cli: RunCli, tmp_path: Path) -> None:
    out = tmp_path / "m.torchscript"
    code, _, err = run_cli(
        "export", f"checkpoint={best}", "format=torchscript", f"output={out}", "images=1", "inference.scale=0.5"
    )
    assert code == 0, err
    for file, extra in ((out, ()), (best, ("inference.scale=0.5",))):
        code, _, err = run_cli("evaluate", f"checkpoint={file}", f"output={tmp_path / file.suffix}", *extra)
        assert code == 0, err
    assert results(tmp_path / ".torchscript")["confusion"] == results(tmp_path / ".pt")["confusion"]


def test_a_file_that_disagrees_is_exit_code_2_unless_allowed(
    best: Path, run_cli: RunCli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The weights change between the model and the file."""

    def perturbed(graph, *args, **kwargs):
        with torch.no_grad():
            head = graph.model.head.weight
            before = head.clone()
            head += torch.randn(head.shape, generator=torch.Generator().manual_seed(0))
            try:
                return to_bytes(graph, *args, **kwargs)
            finally:
                head.copy_(before)

    to_bytes = command.to_bytes
    monkeypatch.setattr(command, "to_bytes", perturbed)
    monkeypatch.setattr(command, "try_sizes", lambda *_: None)
    words = (f"checkpoint={best}", "format=torchscript", f"output={tmp_path / 'm.torchscript'}", "overwrite=true")
    code, out, err = run_cli("export", *words)
    assert code == 2
    assert "have the same class" in out
    assert "% of pixels agree with" in err
    assert "min_agreement=0.999" in err
    code, out, err = run_cli("export", *words, "min_agreement=0")
    assert code == 0, err


def test_a_file_that_holds_for_one_size_only_is_exit_code_2(
    best: Path, run_cli: RunCli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one that resizes to a height and width that were recorded as numbers."""

    def recorded(graph, *args, **kwargs):
        forward = graph.model.forward
        graph.model.forward = lambda images: forward(F.interpolate(images, size=SAMPLE_SIZE))
        try:
            return to_bytes(graph, *args, **kwargs)
        finally:
            graph.model.forward = forward

    to_bytes = command.to_bytes
    monkeypatch.setattr(command, "to_bytes", recorded)
    target = f"output={tmp_path / 'm.torchscript'}"
    code, _, err = run_cli("export", f"checkpoint={best}", "format=torchscript", target, "check=false")
    assert code == 2
    assert "does not export for images of any size: it fails at 1 of 65x97 (another result); 3 of 64x96" in err


def test_labels_are_refused_where_scores_are_needed(best: Path, run_cli: RunCli, tmp_path: Path) -> None:
    out = tmp_path / "m.torchscript"
    code, _, err = run_cli(
        "export", f"checkpoint={best}", "format=torchscript", "outputs=labels", f"output={out}", "images=2"
    )
    assert code == 0, err
    code, _, err = run_cli("evaluate", f"checkpoint={out}")
    assert code == 2
    assert "gives labels and no scores" in err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("data=camvid", "data.root=nowhere"), "set check=false to export without comparing"),
        (("output=model.pt",), "a file of format=onnx ends in .onnx"),
        (("format=tflite",), "tflite"),
        (("size=[10]",), "give [HEIGHT,WIDTH]"),
        (("opset=11",), "must be 18 or more"),
        (("trainer.precision=bf16",), "exported in float32"),
        (("min_agreement=2",), "outside [0, 1]"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_mistakes_end_in_one_line_and_leave_no_file(
    best: Path, run_cli: RunCli, tmp_path: Path, words: tuple[str, ...], message: str
) -> None:
    target = () if any(word.startswith("output=") for word in words) else (f"output={tmp_path / 'm.onnx'}",)
    code, _, err = run_cli("export", f"checkpoint={best}", *target, *words)
    assert code == 2
    assert message in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("model.backbone.dropout=0.5",), "an exported model stays as it is"),
        (("model=fcn",), "an exported model stays as it is"),
        (("weights=raw",), "one kind only"),
        (("data.mean=[0,0,0]",), "normalises by its own"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_what_is_fixed_in_an_exported_file_cannot_be_overridden(
    onnx_file: Path, run_cli: RunCli, tmp_path: Path, words: tuple[str, ...], message: str
) -> None:
    code, _, err = run_cli("evaluate", f"checkpoint={onnx_file}", f"output={tmp_path}", *words)
    assert code == 2
    assert message in err


def test_an_exported_file_is_not_replaced_unless_asked(best: Path, onnx_file: Path, run_cli: RunCli) -> None:
    before = onnx_file.read_bytes()
    code, _, err = run_cli("export", f"checkpoint={best}")
    assert code == 2
    assert "overwrite=true" in err
    assert onnx_file.read_bytes() == before
