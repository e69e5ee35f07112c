"""Files of weights: where they are, whether they can be trusted, what they hold."""

import hashlib
import io
import re
import sys
from http.client import HTTPException
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from segtrain.errors import CheckpointError, nearest
from segtrain.weights.footer import has_footer, verified
from segtrain.weights.safetensors_file import has_digest, unpack


def published_file(url: str, key: str) -> Path:
    """The local file of published weights, downloaded once if need be, its hash verified either way.

    It lies in torch.hub's checkpoint folder. torch.hub verifies only what it has just downloaded; a file damaged later
    would load as silently wrong weights.

    Args:
        url: its file name ends in the head of the file's SHA-256, as torchvision's and timm's do.
        key: `model.backbone.weights=imagenet`: what the user wrote, for messages.

    Raises:
        CheckpointError: cannot be downloaded (the message has the URL and where to put the file), or the hash differs.
    """
    path = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
    match = re.search(r"-([0-9a-f]{8,})\.", path.name)
    assert match, f"{url}: no hash in the name"
    digest = match[1]
    if path.is_file():
        with path.open("rb") as file:
            if not hashlib.file_digest(file, "sha256").hexdigest().startswith(digest):
                raise CheckpointError(
                    f"{path}: damaged, its SHA-256 does not start with {digest}; delete it to fetch {url} again"
                )
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(path), hash_prefix=digest, progress=sys.stderr.isatty())
    except (OSError, HTTPException) as error:
        raise CheckpointError(
            f"{key}: cannot download {url} ({error}); fetch it elsewhere and put it at {path}"
        ) from error
    except RuntimeError as error:  # torch.hub's word for a hash that differs
        raise CheckpointError(f"{key}: {url} arrived damaged ({error}); try again") from error
    return path


def find_file(weights: str, published: dict[str, str], key: str) -> Path:
    """The file that `weights` means: a name in `published`, which maps names to URLs, or a path.

    Raises:
        CheckpointError: there is no such file, or it cannot be fetched.
    """
    if weights in published:
        return published_file(published[weights], f"{key}={weights}")
    path = Path(weights).expanduser()
    if not path.is_file():
        names = "".join(f"{name}, " for name in published)
        unpublished = "nobody publishes those of this network; " if weights == "imagenet" else ""
        raise CheckpointError(
            f"{key}: no file {weights!r}{nearest(weights, published)}; {unpublished}"
            f"give {names}the path of a state dict, or null"
        )
    return path


# Where frameworks put the state dict in the file they write: segtrain, mmsegmentation and Lightning, timm, others.
_USUAL_KEYS = ("model", "state_dict", "model_state_dict", "model_state", "net")


def read_state(path: Path, key: str, nested: str | None = None) -> dict[str, Tensor]:
    """The state dict in a file that torch or safetensors wrote; no code in it is run.

    Args:
        path: of the file; `.safetensors` is read as such, and the digest of a file of segtrain's is verified.
        key: config key, for messages.
        nested: name under which the file's own dict holds the state dict, a.b for deeper ones; None: the file is the
            state dict, or has it under one of the usual names.

    Raises:
        CheckpointError: it cannot be read, or holds something else.
    """
    contents = _read(path, key)
    if nested is None and isinstance(contents, dict):
        nested = next((name for name in _USUAL_KEYS if _is_state(contents.get(name))), None)
    walked = ""
    for name in nested.split(".") if nested else ():
        if not isinstance(contents, dict) or name not in contents:
            raise CheckpointError(f"{key}: {path} has nothing under {walked}{name}, it holds {_holds(contents)}")
        contents, walked = contents[name], f"{walked}{name}."
    if not _is_state(contents):
        raise CheckpointError(f"{key}: {path} is no state dict (tensors by name), it holds {_holds(contents)}")
    return dict(contents)


def _is_state(contents: Any) -> bool:
    return (
        isinstance(contents, dict) and bool(contents) and all(isinstance(value, Tensor) for value in contents.values())
    )


def _read(path: Path, key: str) -> Any:
    try:
        data = path.read_bytes()
        if path.suffix == ".safetensors":
            from safetensors.torch import load  # an optional package, which only such a file needs

            return unpack(data, path)[0] if has_digest(data) else load(data)
        body = verified(data, path) if has_footer(data) else data
        return torch.load(io.BytesIO(body), map_location="cpu", weights_only=True)
    except CheckpointError:
        raise
    except ImportError as error:
        raise CheckpointError(f"{key}: reading {path} takes another package: pip install safetensors") from error
    except Exception as error:  # a malformed file fails in any way; torch's own text would advise weights_only=False
        raise CheckpointError(f"{key}: {path} is not a file of tensors that torch can read safely") from error


def _holds(contents: Any) -> str:
    return (
        f"a dict of {some([str(name) for name in contents])}" if isinstance(contents, dict) else type(contents).__name__
    )


def some(names: list[str]) -> str:
    """The first few of many names."""
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
