"""`segtrain checkpoint`: what it shows is what is in the file, and stripped files evaluate to the same numbers."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from segtrain.engine import checkpoint

RunCli = Callable[..., tuple[int, str, str]]


def damage(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.fixture
def two_checkpoints(finished_run: Path, tmp_path: Path) -> Path:
    """A run's folder with a copy of its best.pt and last.pt, to be spoilt."""
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    for name in ("best.pt", "last.pt"):
        shutil.copy(finished_run / "checkpoints" / name, tmp_path / "run" / "checkpoints" / name)
    return tmp_path / "run"


@pytest.mark.parametrize("name", ["model.pt", "model.safetensors"])
def test_a_stripped_file_evaluates_to_the_numbers_of_its_checkpoint(
    train: Callable[..., Path], run_cli: RunCli, tmp_path: Path, name: str
) -> None:
    run = train("loss.class_weights=enet", "trainer.max_steps=2", "model/aux=fcn")
    last, stripped = run / "checkpoints" / "last.pt", tmp_path / name
    code, out, err = run_cli("checkpoint", "strip", last, f"output={stripped}")
    assert (code, err) == (0, "")
    assert out.startswith(f"written: {stripped}")
    assert stripped.stat().st_size < last.stat().st_size / 2
    code, _, err = run_cli("evaluate", f"checkpoint={stripped}", f"output={tmp_path}")
    assert code == 0, err
    during, after = (json.loads((folder / "results.json").read_text()) for folder in (run, tmp_path))
    assert {key: after[key] for key in ("confusion", "loss", "step")} == {
        key: during[key] for key in ("confusion", "loss", "step")
    }


def test_stripped_weights_start_another_training(
    finished_run: Path, train: Callable[..., Path], run_cli: RunCli
) -> None:
    stripped = finished_run.parent / "x.safetensors"
    code, _, err = run_cli("checkpoint", "strip", finished_run / "checkpoints/last.pt", f"output={stripped}")
    assert code == 0, err
    assert (train(f"model.weights={stripped}", "trainer.max_steps=1") / "checkpoints" / "last.pt").is_file()


def test_without_output_each_file_is_stripped_beside_itself(two_checkpoints: Path, run_cli: RunCli) -> None:
    folder = two_checkpoints / "checkpoints"
    code, _, err = run_cli("checkpoint", "strip", folder / "best.pt", folder / "last.pt")
    assert code == 0, err
    assert sorted(path.name for path in folder.iterdir()) == [
        *("best.pt", "last.pt", "stripped_best.pt", "stripped_last.pt")
    ]
    code, _, err = run_cli("checkpoint", "strip", folder / "best.pt")
    assert code == 2
    assert "stripped_best.pt exists; name another file by output=, or set overwrite=true" in err
    assert run_cli("checkpoint", "strip", folder / "best.pt", "overwrite=true")[0] == 0


def test_inspect_says_what_the_run_recorded(finished_run: Path, run_cli: RunCli) -> None:
    last = finished_run / "checkpoints" / "last.pt"
    code, out, err = run_cli("checkpoint", "inspect", last, "format=json")
    assert (code, err) == (0, "")
    (shown,) = json.loads(out)
    assert (shown["step"], shown["choices"]["model"], shown["kind"]) == (6, "unet", "training")
    assert shown["bytes"] == last.stat().st_size
    assert f"{shown['parameters'] / 1e6:.2f} M parameters" in (finished_run / "train.log").read_text()
    code, out, _ = run_cli("checkpoint", "inspect", last)
    assert code == 0
    assert "\n  step        6\n" in out
    assert "model=unet model/aux=none model/backbone=unet" in out
    best = checkpoint.load(last)["state"]
    assert f"\n  best        miou {best['best_value']:.4f} at step {best['best_step']}\n" in out


def test_inspect_shows_the_sound_files_and_names_the_damaged_one(two_checkpoints: Path, run_cli: RunCli) -> None:
    folder = two_checkpoints / "checkpoints"
    damage(folder / "best.pt")
    code, out, err = run_cli("checkpoint", "inspect", folder / "best.pt", folder / "last.pt")
    assert code == 2
    assert out.startswith(f"{folder / 'last.pt'}: ")
    assert err.startswith(f"segtrain: error: {folder / 'best.pt'}: damaged")


def test_verify_looks_at_every_file_of_a_run_and_fails_if_one_is_damaged(
    two_checkpoints: Path, run_cli: RunCli
) -> None:
    code, out, err = run_cli("checkpoint", "verify", two_checkpoints)
    assert (code, err) == (0, "")
    assert [line.split()[0] for line in out.splitlines()[2:]] == ["sound", "sound"]
    damage(two_checkpoints / "checkpoints" / "last.pt")
    code, out, err = run_cli("checkpoint", "verify", two_checkpoints, "format=json")
    assert code == 2
    assert [(Path(one["file"]).name, one["sound"]) for one in json.loads(out)] == [
        ("best.pt", True),
        ("last.pt", False),
    ]
    assert "1 of 2 files cannot be trusted: " in err
    assert "last.pt: damaged" in err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("", "say what to do: segtrain checkpoint inspect|strip|verify FILE ..."),
        ("inspct x.pt", "not 'inspct'; did you mean 'inspect'?"),
        ("inspect", "segtrain checkpoint inspect: name a file"),
        ("inspect nowhere.pt", "nowhere.pt: no such checkpoint file"),
        ("verify nowhere.pt", "1 of 1 files cannot be trusted: nowhere.pt: no such checkpoint file"),
        ("verify EMPTY", "no checkpoint (.pt, .safetensors) in this folder"),
        ("inspect BEST fromat=json", "no config key 'fromat'; did you mean 'format'?"),
        ("inspect BEST format=yaml", "format='yaml' is not one of 'table', 'json'"),
        ("strip BEST output=model.onnx", "give a name that ends in .pt or .safetensors"),
        ("strip BEST output=BEST", "is the file to strip itself; name another"),
        ("strip BEST output=nowhere/x.pt", "name a file in a folder that exists"),
        ("strip BEST BEST output=x.pt", "output=x.pt is one file for 2"),
    ],
)
def test_a_mistake_is_one_line(
    two_checkpoints: Path, run_cli: RunCli, tmp_path: Path, words: str, message: str
) -> None:
    (tmp_path / "empty").mkdir()
    replaced = words.replace("BEST", str(two_checkpoints / "checkpoints/best.pt")).replace("EMPTY", f"{tmp_path}/empty")
    code, _, err = run_cli("checkpoint", *replaced.split(), cwd=tmp_path)
    assert code == 2
    assert err.startswith("segtrain: error: ")
    assert err.count("\n") == 1
    assert message in err


def test_a_resumed_run_says_that_a_stripped_file_lacks_its_optimizer(two_checkpoints: Path, run_cli: RunCli) -> None:
    folder = two_checkpoints / "checkpoints"
    assert run_cli("checkpoint", "strip", folder / "last.pt")[0] == 0
    (folder / "stripped_last.pt").replace(folder / "last.pt")
    (two_checkpoints / "config.yaml").write_text("model: {}\n")
    code, _, err = run_cli("train", f"resume={two_checkpoints}")
    assert code == 2
    assert "holds no optimizer, scaler of a training" in err


def test_a_file_whose_name_looks_like_an_option_is_a_file(two_checkpoints: Path, run_cli: RunCli) -> None:
    odd = two_checkpoints / "lr=0.1.pt"
    shutil.copy(two_checkpoints / "checkpoints" / "last.pt", odd)
    code, out, err = run_cli("checkpoint", "inspect", "lr=0.1.pt", cwd=two_checkpoints)
    assert code == 0, err
    assert out.startswith("lr=0.1.pt: ")
