"""What two runs must have in common to be the same run: one SHA-256 over everything they have become."""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch

from segtrain.engine import checkpoint

# Of a checkpoint: what it says of the command, the machine and the files beside it, and not of the state.
NOT_STATE = {"schema", "config", "choices", "facts", "versions", "kept"}
# Of metrics.jsonl and of the window that becomes its next line: what the clock or the allocator says.
MEASURED = {"images_per_second", "data_share", "waited", "elapsed", "memory/resident", "memory/cuda_peak"}


def checkpoints(run_dir: Path) -> list[Path]:
    """The files that carry a checkpoint's final name."""
    return sorted(path for path in (run_dir / "checkpoints").glob("*.pt") if not path.name.startswith("."))


def fingerprint(run_dir: Path) -> str:
    """SHA-256 over the state in every checkpoint, their names, the metrics but what is measured, and the results."""
    digest = hashlib.sha256()
    for path in checkpoints(run_dir):
        contents = checkpoint.load(path)
        digest.update(f"{path.name}: {_canonical(_state(contents))}\n".encode())
    for line in (run_dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
        values = {key: value for key, value in json.loads(line).items() if key not in MEASURED}
        digest.update(f"{_canonical(values)}\n".encode())
    digest.update((run_dir / "results.json").read_bytes())
    return digest.hexdigest()


def _state(contents: dict[str, Any]) -> dict[str, Any]:
    state = {key: value for key, value in contents.items() if key not in NOT_STATE}
    return state | {"window": {key: value for key, value in state["window"].items() if key not in MEASURED}}


def differences(one: Path, other: Path) -> list[str]:
    """Where the runs differ, a line each, for the message of a failed test."""
    found = []
    for name in sorted({path.name for run in (one, other) for path in checkpoints(run)}):
        files = [run / "checkpoints" / name for run in (one, other)]
        states = [_flat(_state(checkpoint.load(file))) if file.is_file() else {} for file in files]
        found += [f"{name}: {key}" for key in {**states[0], **states[1]} if states[0].get(key) != states[1].get(key)]
    lines = [(run / "metrics.jsonl").read_text(encoding="utf-8").splitlines() for run in (one, other)]
    if len(lines[0]) != len(lines[1]):
        found.append(f"metrics.jsonl: {len(lines[0])} and {len(lines[1])} lines")
    for first, second in zip(*lines, strict=False):
        pairs = json.loads(first), json.loads(second)
        for key in {**pairs[0], **pairs[1]}:
            if key not in MEASURED and pairs[0].get(key) != pairs[1].get(key):
                found.append(f"metrics.jsonl, step {pairs[0]['step']}: {key}")
    return found


def _flat(value: Any, name: str = "") -> dict[str, str]:
    if isinstance(value, dict):
        parts = [_flat(part, f"{name}.{key}" if name else str(key)) for key, part in value.items()]
        return {key: text for part in parts for key, text in part.items()}
    return {name: _canonical(value)}


def _canonical(value: Any) -> str:
    """A text that is the same for equal values of the same type, and for no others."""
    if isinstance(value, torch.Tensor):
        raw = (
            value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes() if value.numel() else b""
        )
        return f"{value.dtype}{list(value.shape)}{hashlib.sha256(raw).hexdigest()}"
    if isinstance(value, dict):
        entries = sorted((f"{key!r}", _canonical(part)) for key, part in value.items())
        return "{" + ",".join(f"{key}:{part}" for key, part in entries) + "}"
    if isinstance(value, list | tuple):
        return f"{type(value).__name__}[{','.join(map(_canonical, value))}]"
    assert value is None or isinstance(value, bool | int | float | str | bytes), type(value)
    return f"{type(value).__name__} {value!r}"
