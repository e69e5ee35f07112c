"""The last 40 bytes of every file of tensors that segtrain writes: a mark, and the SHA-256 of all before it.

torch itself loads most single-bit errors as silently wrong weights, and reads a file with a footer like any other.
"""

import hashlib
from pathlib import Path

from segtrain.errors import CheckpointError

_MARK = b"segtrain"
_BYTES = len(_MARK) + hashlib.sha256().digest_size


def footer(body: bytes | memoryview) -> bytes:
    """What follows `body` in the file."""
    return _MARK + hashlib.sha256(body).digest()


def has_footer(data: bytes) -> bool:
    return data[-_BYTES:].startswith(_MARK)


def verified(data: bytes, path: Path) -> memoryview:
    """The body of a file that has a footer.

    Raises:
        CheckpointError: the body is not what the footer was made from.
    """
    body = memoryview(data)[:-_BYTES]
    if hashlib.sha256(body).digest() != data[-_BYTES + len(_MARK) :]:
        raise CheckpointError(
            f"{path}: damaged: its SHA-256 is not the one it was written with; use another checkpoint"
        )
    return body
