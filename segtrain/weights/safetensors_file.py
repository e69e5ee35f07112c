"""The safetensors files that segtrain writes: the format's own layout, and a digest of every byte in its metadata.

The format ends where its last tensor does, so that no footer can follow it. The digest stands in the header instead,
and is that of the file with 64 zeros in its place. The package safetensors is optional and imported when it is needed.
"""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

from torch import Tensor

from segtrain.errors import CheckpointError

_ENTRY = re.compile(rb'"segtrain\.sha256":"([0-9a-f]{64})"')
_BLANK = "0" * 64
_LENGTH_BYTES = 8  # of the header's length, little-endian, in front of it


def pack(tensors: dict[str, Tensor], metadata: dict[str, str], path: Path) -> bytes:
    """What a file at `path` holds these tensors and texts in.

    Raises:
        CheckpointError: the package safetensors is not installed.
    """
    # Of their own memory: the format refuses tensors that share theirs, such as tied weights.
    own = {name: x.detach().cpu().contiguous().clone() for name, x in tensors.items()}
    data = bytearray(_package(path).save(own, {**metadata, "segtrain.sha256": _BLANK}))
    place = _digest_place(data)
    assert place is not None, "safetensors writes its header in another form than it used to"
    data[place] = hashlib.sha256(data).hexdigest().encode()
    return bytes(data)


def has_digest(data: bytes) -> bool:
    """Whether segtrain wrote this safetensors file."""
    return _digest_place(data) is not None


def unpack(data: bytes, path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and metadata of a file of `pack`.

    Raises:
        CheckpointError: the file is not what the digest was made from, or the package safetensors is not installed.
    """
    place = _digest_place(data)
    if place is None:
        raise CheckpointError(f"{path}: not a safetensors file of segtrain checkpoint strip, or cut off")
    blank = bytearray(data)
    blank[place] = _BLANK.encode()
    if hashlib.sha256(blank).hexdigest().encode() != data[place]:
        raise CheckpointError(f"{path}: damaged: its SHA-256 is not the one it was written with; strip it anew")
    load = _package(path).load
    try:
        return load(data), json.loads(_header(data))["__metadata__"]
    except Exception:  # a digest proves the file whole, not well-meant: a malformed header fails in any way
        raise CheckpointError(f"{path}: malformed, safetensors cannot read it") from None


def _header(data: bytes | bytearray) -> bytes:
    length = int.from_bytes(data[:_LENGTH_BYTES], "little")
    return bytes(data[_LENGTH_BYTES : _LENGTH_BYTES + length])


def _digest_place(data: bytes | bytearray) -> slice | None:
    found = _ENTRY.search(_header(data))
    return slice(_LENGTH_BYTES + found.start(1), _LENGTH_BYTES + found.end(1)) if found else None


def _package(path: Path) -> Any:
    try:
        import safetensors.torch
    except ImportError as error:
        raise CheckpointError(f"{path}: this format takes another package: pip install safetensors") from error
    return safetensors.torch
