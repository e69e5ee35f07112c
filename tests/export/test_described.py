"""What an exported file says of itself."""

import json
from pathlib import Path

import pytest

from segtrain import __version__
from segtrain.errors import CheckpointError
from segtrain.export.described import CHECKPOINT, KEYS, Interface, describe, format_of, interface_in
from segtrain.types import DataFacts

FACTS = DataFacts(("road", "car"), ((1, 2, 3), (4, 5, 6)), 255, 4, (0.1, 0.2, 0.3, 0.4), (1.0, 2.0, 3.0, 4.0), 0.25)
SIZED = Interface(normalize=False, outputs="labels", size=(48, 64))


def test_every_key_is_json_text_of_its_value() -> None:
    metadata = describe(FACTS, SIZED, '{"config": {}}')
    assert list(metadata) == list(KEYS)
    assert metadata.pop(CHECKPOINT) == '{"config": {}}'
    assert {key: json.loads(text) for key, text in metadata.items()} == {
        "segtrain.version": __version__,
        "class_names": ["road", "car"],
        "palette": [[1, 2, 3], [4, 5, 6]],
        "ignore_index": 255,
        "in_channels": 4,
        "mean": [0.1, 0.2, 0.3, 0.4],
        "std": [1.0, 2.0, 3.0, 4.0],
        "threshold": 0.25,
        "value_range": None,
        "normalize": False,
        "outputs": "labels",
        "size": [48, 64],
    }


@pytest.mark.parametrize("interface", [SIZED, Interface(True, "logits", None)])
def test_the_interface_comes_back(interface: Interface) -> None:
    assert interface_in(describe(FACTS, interface, "{}"), Path("m.onnx")) == interface


@pytest.mark.parametrize("change", [{"outputs": '"boxes"'}, {"normalize": "yes"}, {"size": "[1]"}])
def test_other_metadata_are_refused_by_the_files_name(change: dict[str, str]) -> None:
    metadata = describe(FACTS, SIZED, "{}") | change
    with pytest.raises(CheckpointError, match=r"m\.onnx: was not written by segtrain export"):
        interface_in(metadata, Path("m.onnx"))


def test_the_suffix_says_the_format() -> None:
    names = ("a.onnx", "a.b.torchscript", "a.pt2", "a.pt", "a.safetensors")
    assert [format_of(Path(name)) for name in names] == ["onnx", "torchscript", "torch_export", None, None]


def test_values_are_json_of_their_own_and_no_python_text() -> None:
    assert json.loads(describe(FACTS, Interface(True, "logits", None), "{}")["size"]) is None
