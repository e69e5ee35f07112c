"""What an exported file says of itself, so that whoever has the file alone can use it.

Every value is a JSON text under a key of its own: in ONNX among the model's `metadata_props`, in TorchScript and
torch.export among the extra files.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from segtrain import __version__
from segtrain.errors import CheckpointError
from segtrain.types import DataFacts

Format = Literal["onnx", "torchscript", "torch_export"]
Outputs = Literal["logits", "probabilities", "labels"]

SUFFIXES: dict[Format, str] = {"onnx": ".onnx", "torchscript": ".torchscript", "torch_export": ".pt2"}

CHECKPOINT = "segtrain.checkpoint"  # config, facts, state of the run and of the loss: what `evaluate` needs
KEYS = (
    *("segtrain.version", "class_names", "palette", "ignore_index", "in_channels", "mean", "std", "threshold"),
    "value_range",
    *("normalize", "outputs", "size", CHECKPOINT),
)


@dataclass(frozen=True)
class Interface:
    """What goes into an exported model and what comes out.

    Attributes:
        normalize: True: it takes uint8 images [N, C, H, W] and normalises them itself. False: float32, normalised.
        outputs: logits: float32 [N, num_classes, H, W] | probabilities: their softmax | labels: int64 [N, H, W].
        size: the only height and width that it takes; None: any.
    """

    normalize: bool
    outputs: Outputs
    size: tuple[int, int] | None


def format_of(path: Path) -> Format | None:
    """The format that the file's suffix stands for; None for files that are not exported ones."""
    return next((name for name, suffix in SUFFIXES.items() if path.suffix == suffix), None)


def describe(facts: DataFacts, interface: Interface, checkpoint: str) -> dict[str, str]:
    """The metadata: a JSON text for each of `KEYS`.

    Args:
        facts: of the data.
        interface: of the exported model.
        checkpoint: JSON text of what `segtrain evaluate` reads.
    """
    values = {
        "segtrain.version": __version__,
        "class_names": facts.class_names,
        "palette": facts.palette,
        "ignore_index": facts.ignore_index,
        "in_channels": facts.in_channels,
        "mean": facts.mean,
        "std": facts.std,
        "threshold": facts.threshold,
        "value_range": facts.value_range,
        "normalize": interface.normalize,
        "outputs": interface.outputs,
        "size": interface.size,
    }
    return {key: json.dumps(value) for key, value in values.items()} | {CHECKPOINT: checkpoint}


def interface_in(metadata: Mapping[str, str], path: Path) -> Interface:
    """The inverse of `describe` for the interface.

    Raises:
        CheckpointError: the metadata are not those of `segtrain export`.
    """
    try:
        normalize, outputs, size = (json.loads(metadata[key]) for key in ("normalize", "outputs", "size"))
        assert isinstance(normalize, bool)
        assert outputs in get_args(Outputs)
        assert isinstance(metadata[CHECKPOINT], str)
        found = Interface(normalize, outputs, None if size is None else (int(size[0]), int(size[1])))
    except Exception:  # text of anybody's making
        raise CheckpointError(f"{path}: was not written by segtrain export, or by a newer one") from None
    return found
