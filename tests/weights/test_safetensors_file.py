"""The safetensors files that segtrain writes: readable by others, and every flipped bit noticed."""

from pathlib import Path

import pytest
import safetensors
import torch
from safetensors.torch import load_file

from segtrain.errors import CheckpointError
from segtrain.weights import read_state
from segtrain.weights.safetensors_file import has_digest, pack, unpack

PATH = Path("x.safetensors")
TENSORS = {"a.weight": torch.arange(6.0).view(2, 3), "a.count": torch.tensor(3)}


def test_what_is_packed_is_unpacked_and_others_read_it(tmp_path: Path) -> None:
    data = pack(TENSORS, {"note": "näheres"}, PATH)
    tensors, metadata = unpack(data, PATH)
    assert {name: x.tolist() for name, x in tensors.items()} == {name: x.tolist() for name, x in TENSORS.items()}
    assert metadata["note"] == "näheres"
    path = tmp_path / "x.safetensors"
    path.write_bytes(data)
    assert load_file(path)["a.weight"].tolist() == [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]
    with safetensors.safe_open(path, "pt") as file:
        assert file.metadata()["note"] == "näheres"


def test_tensors_that_share_memory_or_are_not_contiguous_are_written_by_value() -> None:
    base = torch.arange(6.0).view(2, 3)
    tensors = {"whole": base, "same": base, "turned": base.T}
    assert unpack(pack(tensors, {}, PATH), PATH)[0]["turned"].tolist() == base.T.tolist()


def test_every_flipped_bit_is_noticed() -> None:
    good = pack(TENSORS, {"note": "text"}, PATH)
    for position in range(len(good)):
        bad = bytearray(good)
        bad[position] ^= 1 << (position % 8)
        with pytest.raises(CheckpointError):
            unpack(bytes(bad), PATH)


def test_a_file_of_weights_is_verified_where_segtrain_wrote_it(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    data = bytearray(pack(TENSORS, {}, path))
    path.write_bytes(data)
    assert read_state(path, "model.weights")["a.count"].item() == 3
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match="damaged"):
        read_state(path, "model.weights")


def test_a_file_of_another_program_has_no_digest() -> None:
    assert not has_digest(safetensors.torch.save(TENSORS, {"format": "pt"}))
