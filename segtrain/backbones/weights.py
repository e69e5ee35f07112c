"""Pretrained weights: finding the file, trusting it, and loading it strictly."""

import hashlib
import pickle
import re
import sys
from http.client import HTTPException
from pathlib import Path

import torch
from torch import Tensor, nn
from torchvision.models import WeightsEnum

from segtrain.errors import CheckpointError, nearest


def load_weights(module: nn.Module, weights: str, published: WeightsEnum, *, stem: str, drop: tuple[str, ...]) -> None:
    """Loads a state dict into `module`; every name and every shape must match.

    Args:
        weights: `imagenet` for the `published` file, else a path.
        published: torchvision's entry; its file is downloaded once into torch.hub's checkpoint folder.
        stem: name of the first convolution's weight, adapted (`adapt_stem`) where `module` takes other than 3 channels.
        drop: prefixes of the parameters that `module` leaves out on purpose, the classifier's.

    Raises:
        CheckpointError: the file is missing, cannot be fetched, is damaged, or holds another network.
    """
    path = published_file(published) if weights == "imagenet" else Path(weights).expanduser()
    if not path.is_file():
        raise CheckpointError(
            f"model.backbone.weights: no file {weights!r}{nearest(weights, ['imagenet'])}; "
            "give imagenet, the path of a state dict, or null"
        )
    state = {name: value for name, value in _read(path).items() if not name.startswith(drop)}
    own = module.state_dict()
    if stem in state and state[stem].ndim == 4 and state[stem].shape[1] == 3:
        state[stem] = adapt_stem(state[stem], own[stem].shape[1])

    # Files from before torch 0.4.1 do not count batches; torch fills that in, so it is nobody's mistake.
    missing = [name for name in own if name not in state and not name.endswith("num_batches_tracked")]
    unknown = [name for name in state if name not in own]
    misshapen = [
        f"{name} {list(state[name].shape)} instead of {list(own[name].shape)}"
        for name in own
        if name in state and state[name].shape != own[name].shape
    ]
    cases = {"missing": missing, "not in this network": unknown, "of another shape": misshapen}
    if any(cases.values()):
        found = "; ".join(f"{len(names)} {what} ({_some(names)})" for what, names in cases.items() if names)
        raise CheckpointError(f"model.backbone.weights: {path} does not fit: of {len(own)} tensors {found}")
    module.load_state_dict(state)


def adapt_stem(weight: Tensor, in_channels: int) -> Tensor:
    """A first convolution made for RGB, for images of `in_channels` channels.

    1 channel: the sum over RGB, so a grey image gives what its three equal copies gave. n channels: R, G, B, R, ...
    in turn, times 3 / n, so that the response to n equal channels stays what it was to three.

    Args:
        weight: [out, 3, k, k].

    Returns: [out, in_channels, k, k].
    """
    if in_channels == 3:
        return weight
    if in_channels == 1:
        return weight.sum(dim=1, keepdim=True)
    return weight[:, [channel % 3 for channel in range(in_channels)]] * (3 / in_channels)


def published_file(published: WeightsEnum) -> Path:
    """The local file of torchvision's `published` weights, downloaded if need be, its hash verified either way.

    torch.hub verifies only what it has just downloaded; a file damaged later would load as silently wrong weights.

    Raises:
        CheckpointError: cannot be downloaded (the message has the URL and where to put the file), or the hash differs.
    """
    url = published.url
    path = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
    match = re.search(r"-([0-9a-f]{8,})\.", path.name)  # torchvision's file names end in the head of their SHA-256
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
            f"model.backbone.weights=imagenet: cannot download {url} ({error}); fetch it elsewhere and put it at {path}"
        ) from error
    except RuntimeError as error:  # torch.hub's word for a hash that differs
        raise CheckpointError(f"model.backbone.weights=imagenet: {url} arrived damaged ({error}); try again") from error
    return path


def _read(path: Path) -> dict[str, Tensor]:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, EOFError, RuntimeError, UnicodeDecodeError, pickle.UnpicklingError, KeyError, ValueError) as error:
        # Not torch's own text, which advises weights_only=False.
        raise CheckpointError(
            f"model.backbone.weights: {path} is not a file of tensors that torch can read safely"
        ) from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        holds = f"a dict of {_some([str(key) for key in state])}" if isinstance(state, dict) else type(state).__name__
        raise CheckpointError(f"model.backbone.weights: {path} is no state dict (tensors by name), it holds {holds}")
    return dict(state)


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
