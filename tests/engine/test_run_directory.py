"""A run's folder is created by one run alone."""

import json
from pathlib import Path

import pytest

from segtrain.engine.run_directory import RunDirectory, check_output, environment, write_json
from segtrain.errors import ConfigError


def test_generated_folders_never_collide(tmp_path: Path) -> None:
    made = {RunDirectory.create(None, tmp_path, "shapes", "unet").path for _ in range(20)}
    assert len(made) == 20
    assert {path.parent for path in made} == {tmp_path / "shapes" / "unet"}


def test_a_folder_with_something_in_it_is_never_taken(tmp_path: Path) -> None:
    taken = tmp_path / "run"
    taken.mkdir()
    (taken / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="exists and is not empty; name another folder"):
        RunDirectory.create(taken, tmp_path, "", "")
    assert (taken / "notes.txt").read_text() == "mine"


def test_an_empty_folder_is_taken(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    assert RunDirectory.create(tmp_path / "run", tmp_path, "", "").checkpoints.is_dir()


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="is a file, or inside one; name a folder"):
        RunDirectory.create(tmp_path / "file" / "run", tmp_path, "", "")
    with pytest.raises(ConfigError, match="cannot be created"):
        RunDirectory.create(tmp_path / ("x" * 300), tmp_path, "", "")


def test_where_a_run_is_already_it_is_offered_for_resuming(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path / "run", tmp_path, "", "")
    run.last.touch()
    with pytest.raises(ConfigError, match="holds a run already; go on with it by resume="):
        RunDirectory.create(run.path, tmp_path, "", "")


def test_an_output_in_a_file_is_refused_before_the_work_is_done(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    check_output(tmp_path / "new" / "folder")
    with pytest.raises(ConfigError, match="file is a file; name a folder"):
        check_output(tmp_path / "file" / "results")


def test_json_is_written_whole_and_has_no_nan(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    write_json(path, {"miou": 0.5})
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(path, {"miou": float("nan")})
    assert json.loads(path.read_text()) == {"miou": 0.5}


def test_the_environment_says_versions_and_command() -> None:
    found = environment(["segtrain", "train"], processes=1)
    assert found["command"] == ["segtrain", "train"]
    assert {"segtrain", "python", "torch", "albumentations"} <= set(found["versions"])
    json.dumps(found)
