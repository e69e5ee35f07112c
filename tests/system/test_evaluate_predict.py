"""`segtrain evaluate` and `segtrain predict`: nothing restated, and the numbers of the training."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segtrain.commands.evaluate import Row, comparison
from segtrain.engine import checkpoint

RunCli = Callable[..., tuple[int, str, str]]


def test_evaluate_gives_the_numbers_of_the_training(finished_run: Path, run_cli: RunCli, tmp_path: Path) -> None:
    during = json.loads((finished_run / "results.json").read_text())
    code, out, err = run_cli("evaluate", f"checkpoint={finished_run}/checkpoints/last.pt", f"output={tmp_path}")
    assert code == 0, err
    after = json.loads((tmp_path / "results.json").read_text())
    assert after["confusion"] == during["confusion"]
    assert (after["miou"], after["loss"], after["step"]) == (during["miou"], during["loss"], during["step"])
    assert f"{during['miou']:.4f}" in out


def test_overrides_apply_on_top_of_the_checkpoint(finished_run: Path, run_cli: RunCli, tmp_path: Path) -> None:
    best = f"checkpoint={finished_run}/checkpoints/last.pt"
    code, _, err = run_cli("evaluate", best, f"output={tmp_path}", "data.num_val=3", "inference.scale=0.5")
    assert code == 0, err
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["images"] == 3
    assert results["miou"] != json.loads((finished_run / "results.json").read_text())["miou"]


def test_several_ways_of_inference_end_in_one_table(finished_run: Path, run_cli: RunCli, tmp_path: Path) -> None:
    last = f"checkpoint={finished_run}/checkpoints/last.pt"
    ways = "inference=whole,slide,multiscale"
    code, out, err = run_cli("evaluate", "-m", last, f"output={tmp_path}", "data.num_val=3", ways)
    assert code == 0, err
    folders = sorted((tmp_path / "evaluations").iterdir())
    assert len(folders) == 3
    results = [json.loads((folder / "results.json").read_text()) for folder in folders]
    assert results[0]["confusion"] == results[1]["confusion"] != results[2]["confusion"]  # images fit in a window
    table = out[out.rindex("images/s") :].splitlines()[1:]
    for folder, found, line in zip(folders, results, table, strict=True):
        assert line.endswith(str(folder / "results.json"))
        assert f"  {found['miou']:.4f}  " in line
        assert found["images_per_second"] > 0
    assert [line.split()[0] for line in table] == ["inference=whole", "inference=slide", "inference=multiscale"]


def test_rows_of_the_table_are_named_by_what_tells_them_apart(
    finished_run: Path, run_cli: RunCli, tmp_path: Path
) -> None:
    files = [finished_run / "checkpoints" / name for name in ("last.pt", "best.pt")]
    both = f"checkpoint={files[0]},{files[1]}"
    code, out, err = run_cli("evaluate", "-m", both, f"output={tmp_path}", "data.num_val=1", "inference=slide")
    assert code == 0, err
    table = out[out.rindex("images/s") :].splitlines()[1:]
    assert [line.split()[0] for line in table] == [f"checkpoint={file}" for file in files]
    assert not any("inference=slide" in line.partition(str(tmp_path))[0] for line in table)


def test_a_word_that_only_some_rows_have_is_shown_and_equal_rows_are_named_in_full() -> None:
    def names(*rows: tuple[str, ...]) -> list[str]:
        lines = comparison([Row(words, 0.5, 1.0, Path("results.json")) for words in rows]).splitlines()[1:]
        return [line.partition("  ")[0] for line in lines]

    shared = ("checkpoint=a.pt", "debug=true")
    assert names((*shared, "x=1", "y=1"), (*shared, "x=1", "y=2"), (*shared, "x=2", "y=1")) == [
        *("x=1 y=1", "x=1 y=2", "x=2 y=1")
    ]
    assert names(shared, shared) == ["checkpoint=a.pt debug=true"] * 2


def test_a_strategy_inside_a_stored_one_is_chosen_by_name(finished_run: Path, run_cli: RunCli, tmp_path: Path) -> None:
    last = f"checkpoint={finished_run}/checkpoints/last.pt"
    words = ("inference=multiscale", "inference/base=slide", "inference.base.size=[32,32]", "inference.scales=[0.5,1]")
    code, _, err = run_cli("evaluate", last, f"output={tmp_path}", "data.num_val=2", *words)
    assert code == 0, err
    code, _, err = run_cli("evaluate", last, f"output={tmp_path}", "inference/base=slide")
    assert code == 2
    assert "the stored inference has no base to choose" in err


def test_evaluate_takes_class_weights_from_the_checkpoint(train: Callable[..., Path], run_cli: RunCli) -> None:
    run = train("loss.class_weights=enet")
    during = json.loads((run / "results.json").read_text())
    code, _, err = run_cli("evaluate", f"checkpoint={run}/checkpoints/last.pt")
    assert code == 0, err
    assert json.loads((run / "results.json").read_text())["loss"] == during["loss"]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three pictures of different sizes, one of them grey and one with dots in its name."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for name, shape in {"a.png": (33, 47, 3), "b.v2.jpg": (64, 50, 3), "grey.png": (40, 40)}.items():
        Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)).save(folder / name)
    (folder / "notes.txt").write_text("no image")
    return folder


def test_predict_writes_every_product_at_the_inputs_resolution(
    finished_run: Path, photos: Path, run_cli: RunCli, tmp_path: Path
) -> None:
    best = finished_run / "checkpoints" / "best.pt"
    save = "save=[index,palette,overlay,probabilities,confidence]"
    code, _, err = run_cli("predict", f"checkpoint={best}", f"input={photos}", f"output={tmp_path}", save)
    assert code == 0, err
    facts = checkpoint.load(best)["facts"]
    for name, (height, width) in {"a": (33, 47), "b.v2": (64, 50), "grey": (40, 40)}.items():
        index = np.array(Image.open(tmp_path / "index" / f"{name}.png"))
        palette = Image.open(tmp_path / "palette" / f"{name}.png")
        archive = np.load(tmp_path / "probabilities" / f"{name}.npz")
        confidence = np.array(Image.open(tmp_path / "confidence" / f"{name}.png"))
        probabilities = archive["probabilities"].astype(np.float32)
        assert index.shape == (height, width)
        assert np.array_equal(np.array(palette), index)
        assert np.array_equal(np.array(palette.convert("RGB")), np.array(facts["palette"], dtype=np.uint8)[index])
        assert Image.open(tmp_path / "overlay" / f"{name}.png").size == (width, height)
        assert list(archive["class_names"]) == list(facts["class_names"])
        assert probabilities.shape == (7, height, width)
        assert probabilities.sum(axis=0) == pytest.approx(np.ones((height, width)), abs=0.01)
        assert confidence / 255 == pytest.approx(probabilities.max(axis=0), abs=0.01)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *("confidence", "index", "overlay", "palette", "probabilities")
    ]


@pytest.mark.parametrize(
    ("where", "names"),
    [("a.png", ["a.png"]), ("*.png", ["a.png", "grey.png"]), ("", ["a.png", "b.v2.png", "grey.png"])],
    ids=["file", "glob", "folder"],
)
def test_input_is_a_file_a_glob_or_a_folder(
    finished_run: Path, photos: Path, run_cli: RunCli, tmp_path: Path, where: str, names: list[str]
) -> None:
    code, _, err = run_cli(
        *("predict", f"checkpoint={finished_run}/checkpoints/best.pt"),
        *(f"input='{photos / where}'", f"output={tmp_path}", "save=[index]"),
    )
    assert code == 0, err
    assert sorted(path.name for path in (tmp_path / "index").iterdir()) == names


def test_two_files_of_one_stem_do_not_overwrite_each_other(
    finished_run: Path, photos: Path, run_cli: RunCli, tmp_path: Path
) -> None:
    for name in ("x.png", "x.bmp"):
        Image.open(photos / "a.png").save(tmp_path / name)
    code, _, err = run_cli(
        *("predict", f"checkpoint={finished_run}/checkpoints/best.pt"),
        *(f"input={tmp_path}", f"output={tmp_path / 'out'}", "save=[index]"),
    )
    assert code == 0, err
    assert sorted(path.name for path in (tmp_path / "out" / "index").iterdir()) == ["x.bmp.png", "x.png.png"]


def test_predict_sees_images_through_the_evaluation_transforms(
    finished_run: Path, photos: Path, run_cli: RunCli, tmp_path: Path
) -> None:
    best, invert = f"checkpoint={finished_run}/checkpoints/best.pt", "{_target_: albumentations.InvertImg, p: 1.0}"
    for folder, extra in (("plain", ()), ("inverted", (f"+augment.evaluate.invert={invert}",))):
        code, _, err = run_cli(
            *("predict", best, f"input={photos / 'a.png'}", f"output={tmp_path / folder}", "save=[probabilities]"),
            *extra,
        )
        assert code == 0, err
    plain, inverted = (
        np.load(tmp_path / folder / "probabilities" / "a.npz")["probabilities"] for folder in ("plain", "inverted")
    )
    assert not np.array_equal(plain, inverted)


def test_predict_refuses_an_evaluation_transform_that_changes_the_size(
    finished_run: Path, photos: Path, run_cli: RunCli, tmp_path: Path
) -> None:
    resize = "+augment.evaluate.small={_target_: albumentations.Resize, height: 8, width: 8}"
    code, _, err = run_cli(
        *("predict", f"checkpoint={finished_run}/checkpoints/best.pt"),
        *(f"input={photos / 'a.png'}", f"output={tmp_path}", resize),
    )
    assert code == 2
    assert "from 33x47 into 8x8" in err


def test_other_normalisation_on_the_command_line_takes_effect(
    finished_run: Path, run_cli: RunCli, tmp_path: Path
) -> None:
    during = json.loads((finished_run / "results.json").read_text())
    last = f"checkpoint={finished_run}/checkpoints/last.pt"
    code, _, err = run_cli("evaluate", last, f"output={tmp_path}", "data.mean=[0,0,0]")
    assert code == 0, err
    assert json.loads((tmp_path / "results.json").read_text())["loss"] != during["loss"]


def test_a_checkpoint_is_no_reason_to_read_other_weights(finished_run: Path, run_cli: RunCli, tmp_path: Path) -> None:
    contents = checkpoint.load(finished_run / "checkpoints" / "best.pt")
    del contents["schema"]
    contents["config"]["loss"] = {
        "_target_": "segtrain.backbones.resnet.ResNet",
        "in_channels": 3,
        "name": "resnet18",
        "weights": "/nowhere/secret.pt",
        "output_stride": 32,
        "dilate_strided": False,
        "multi_grid": None,
        "deformable_stages": [],
        "deformable_version": 1,
    }
    checkpoint.save(contents, tmp_path / "hostile.pt")
    code, _, err = run_cli("evaluate", f"checkpoint={tmp_path / 'hostile.pt'}")
    assert code == 2
    assert "secret.pt" not in err
    assert "loss: it cannot be called with logits" in err


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.mean=null", "data.mean=None: 3 value(s) needed"),
        ("data.mean=[0.5]", "data.mean=[0.5]: 3 value(s) needed"),
        ("data.std=[1,1,a]", "data.std=[1, 1, 'a']: 3 value(s) needed"),
        ("data.std=[1,1,0]", "must be positive"),
        ("data.palette=[[0,0,0]]", "data.palette has 1 colours for 7 classes"),
        ("data.value_range=5", "data.value_range=5: give the values that become 0 and 255"),
        ("data.value_range=[a,b]", "data.value_range=['a', 'b']: give the values"),
        ("data.value_range=[9,1]", "data.value_range=[9, 1]: give the values"),
        ("data.value_range={a:1,b:2}", "data.value_range={'a': 1, 'b': 2}: give the values"),
    ],
)
def test_wrong_facts_of_the_data_on_the_command_line_is_one_line(
    finished_run: Path, photos: Path, run_cli: RunCli, tmp_path: Path, override: str, message: str
) -> None:
    code, _, err = run_cli(
        *("predict", f"checkpoint={finished_run}/checkpoints/best.pt"),
        *(f"input={photos / 'a.png'}", f"output={tmp_path}", override),
    )
    assert code == 2
    assert err.startswith("segtrain: error: ")
    assert message in err
