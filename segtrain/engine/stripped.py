"""What inference needs of a checkpoint, in files of its own: `.pt` as segtrain writes it, or `.safetensors`.

A stripped file holds the config, its choices, the facts of the data, where the run stood, the state of the loss (its
class weights), and the weights that are evaluated; no optimizer, no random state, no auxiliary heads.
"""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from segtrain.engine import checkpoint
from segtrain.errors import CheckpointError
from segtrain.weights.safetensors_file import pack, unpack

SUFFIXES = (".pt", ".safetensors")
# What a checkpoint must hold to be stripped, evaluated or predicted with.
PARTS = ("config", "facts", "model", "criterion", "state")
# Plain values; in a .safetensors file they are one JSON text among its metadata.
_PLAIN = ("config", "choices", "facts", "state")
_METADATA = "segtrain.checkpoint"


def inference_weights(contents: dict[str, Any], raw: bool = False) -> dict[str, Tensor]:
    """The weights that a checkpoint's model is evaluated with: their moving average where the run kept one.

    `raw`: the weights themselves even so.
    """
    ema = contents.get("ema")
    weights: dict[str, Tensor] = contents["model"] if ema is None or raw else ema["model"]
    return weights


def strip(contents: dict[str, Any]) -> dict[str, Any]:
    """The parts of a training's checkpoint that inference needs.

    Args:
        contents: of the checkpoint, with all of `PARTS`.
    """
    weights = {name: x for name, x in inference_weights(contents).items() if not name.startswith("auxiliary.")}
    kept = {name: contents[name] for name in _PLAIN if name in contents}
    return kept | {"model": _packed(weights), "criterion": _packed(contents["criterion"])}


def _packed(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copies: torch writes a tensor's whole memory, of which it may be a small part."""
    return {name: x.detach().contiguous().clone() for name, x in tensors.items()}


def save_stripped(contents: dict[str, Any], path: Path) -> None:
    """Writes what `strip` returned, whole or not at all, in the format of the suffix.

    Raises:
        MachineError: the disk is full or the folder not writable.
        CheckpointError: the package safetensors is not installed, or JSON cannot hold the config.
    """
    if path.suffix != ".safetensors":
        checkpoint.save(contents, path)
        return
    # What other programs read first: the tensors carry the names of the model's state dict.
    metadata = {"format": "pt", _METADATA: plain_text(contents, path)}
    checkpoint.save_bytes(pack(contents["model"], metadata, path), path)


def load(path: Path) -> dict[str, Any]:
    """Reads a checkpoint of either format: what a training saved, or what `save_stripped` wrote.

    Raises:
        CheckpointError: the file is missing, is no segtrain checkpoint, is damaged, or was written by a newer segtrain.
    """
    if path.suffix != ".safetensors":
        return checkpoint.load(path)
    tensors, metadata = unpack(checkpoint.read_bytes(path), path)
    return plain_contents(metadata.get(_METADATA, ""), path) | {"model": tensors}


def plain_text(contents: dict[str, Any], path: Path) -> str:
    """All that inference needs of a checkpoint but the model's weights, as JSON, for a file's metadata.

    Raises:
        CheckpointError: JSON cannot hold the config.
    """
    criterion = {
        name: {"dtype": str(x.dtype).removeprefix("torch."), "values": x.tolist()}
        for name, x in contents["criterion"].items()
    }
    plain = {name: contents[name] for name in _PLAIN if name in contents}
    text = json.dumps({"schema": checkpoint.SCHEMA, **plain, "criterion": criterion})
    if json.loads(text)["config"] != contents["config"]:
        raise CheckpointError(f"{path}: JSON turns keys of the config into others; write a .pt file instead")
    return text


def plain_contents(text: str, path: Path) -> dict[str, Any]:
    """The inverse of `plain_text`.

    Raises:
        CheckpointError: the text is not such a one, or a newer segtrain's.
    """
    try:
        contents = json.loads(text)
        assert "schema" in contents
        criterion = {
            name: torch.tensor(one["values"], dtype=getattr(torch, one["dtype"]))
            for name, one in contents.pop("criterion").items()
        }
    except Exception:  # text of anybody's making, under a digest that fits
        raise CheckpointError(f"{path}: its metadata are not those of a segtrain checkpoint") from None
    return checkpoint.upgraded({**contents, "criterion": criterion}, path)
