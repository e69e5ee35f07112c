"""Stripped checkpoints: what inference needs, nothing else, the same in both formats."""

from pathlib import Path
from typing import Any

import pytest
import torch

from segtrain.engine import checkpoint, stripped
from segtrain.engine.contents import Contents
from segtrain.errors import CheckpointError
from segtrain.weights.safetensors_file import pack


def trained(**more: Any) -> dict[str, Any]:
    """Contents of a training's checkpoint, small enough to read."""
    return {
        "config": {"model": {"_target_": "m", "channels": [1, 2]}, "trainer": {"monitor": "miou"}},
        "choices": {"model": "unet"},
        "facts": {"class_names": ["a", "b"], "mean": [0.1]},
        "state": {"step": 7, "best_value": 0.0, "best_step": 3},
        "model": {"w": torch.tensor([1.0, 2.0]), "n.running_mean": torch.zeros(5), "auxiliary.head.w": torch.zeros(9)},
        "criterion": {"loss.class_weights": torch.tensor([0.1, 3.0])},
        "optimizer": {"state": {0: {"exp_avg": torch.zeros(2)}}},
        "scaler": {},
        "random": {"torch": torch.get_rng_state()},
        **more,
    }


@pytest.mark.parametrize("suffix", stripped.SUFFIXES)
def test_a_stripped_file_holds_what_inference_needs_and_nothing_else(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"x{suffix}"
    stripped.save_stripped(stripped.strip(trained()), path)
    loaded = stripped.load(path)
    assert sorted(loaded) == ["choices", "config", "criterion", "facts", "model", "schema", "state"]
    assert {name: x.tolist() for name, x in loaded["model"].items()} == {"w": [1.0, 2.0], "n.running_mean": [0.0] * 5}
    # Bit for bit, although 0.1 in float32 went through JSON.
    assert torch.equal(loaded["criterion"]["loss.class_weights"], torch.tensor([0.1, 3.0]))
    assert (loaded["config"], loaded["state"]["step"]) == (trained()["config"], 7)


def test_the_moving_average_is_what_a_stripped_file_holds() -> None:
    average = {"model": {"w": torch.tensor([5.0, 6.0])}, "updates": 4}
    assert stripped.strip(trained(ema=average))["model"]["w"].tolist() == [5.0, 6.0]
    assert stripped.strip(trained(ema=None))["model"]["w"].tolist() == [1.0, 2.0]


def test_a_slice_of_a_large_tensor_is_written_alone(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    large = torch.zeros(100_000)
    stripped.save_stripped(stripped.strip(trained(model={"w": large[:2]})), path)
    assert path.stat().st_size < 20_000


def test_a_config_that_json_would_change_is_refused(tmp_path: Path) -> None:
    contents = stripped.strip(trained(config={"data": {"labels": {0: 1}}}))
    with pytest.raises(CheckpointError, match="write a .pt file instead"):
        stripped.save_stripped(contents, tmp_path / "x.safetensors")
    assert not (tmp_path / "x.safetensors").exists()


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"schema": 1, "criterion": {"a": {"dtype": "load", "values": 1}}}'])
def test_metadata_of_another_making_are_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(pack({"w": torch.zeros(1)}, {"segtrain.checkpoint": text}, path))
    with pytest.raises(CheckpointError, match="not those of a segtrain checkpoint"):
        stripped.load(path)


def test_statistics_of_norms_are_no_parameters_and_a_best_value_of_zero_is_shown(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    checkpoint.save(trained(ema={"model": {}, "updates": 4}), path)
    rows = dict(Contents.read(path).rows())
    assert rows["parameters"] == "11 (float32); moving average after 4 updates"
    assert rows["best"] == "miou 0.0000 at step 3"
    assert rows["classes"] == "2: a, b"


def test_parts_of_unexpected_kinds_are_left_out_of_what_is_shown(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    checkpoint.save({"state": 3, "config": [1], "model": {"w": "text"}, "facts": None, "optimizer": 1}, path)
    assert set(dict(Contents.read(path).rows())) == {"kind", "schema", "parameters", "holds"}
