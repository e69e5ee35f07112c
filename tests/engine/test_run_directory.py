"""A run's folder is created by one run alone."""

import json
from pathlib import Path

import pytest

from segtrain.engine.run_directory import RunDirectory, environment, write_json
from segtrain.errors import ConfigError


def test_generated_folders_never_collide(tmp_path: Path) -> None:
    made = {RunDirectory.create(None, tmp_path, "shapes", "unet").path for _ in range(20)}
    assert len(made) == 20
    assert {path.parent for path in made} == {tmp_path / "shapes" / "unet"}


def test_a_folder_with_something_in_it_is_never_taken(tmp_path: Path) -> None:
    taken = tmp_path / "run"
    taken.mkdir()
    (taken / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="exists and is not empty.*resume="):
        RunDirectory.create(taken, tmp_path, "", "")
    assert (taken / "notes.txt").read_text() == "mine"


def test_an_empty_folder_is_taken(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    assert RunDirectory.create(tmp_path / "run", tmp_path, "", "").checkpoints.is_dir()


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot be created"):
        RunDirectory.create(tmp_path / "file" / "run", tmp_path, "", "")


def test_json_is_written_whole_and_has_no_nan(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    write_json(path, {"miou": 0.5})
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(path, {"miou": float("nan")})
    assert json.loads(path.read_text()) == {"miou": 0.5}


def test_the_environment_says_versions_and_command() -> None:
    found = environment(["segtrain", "train"])
    assert found["command"] == ["segtrain", "train"]
    assert {"segtrain", "python", "torch", "albumentations"} <= set(found["versions"])
    json.dumps(found)
