"""What a checkpoint holds, said briefly. Nothing in the file is trusted to be of the kind one would expect."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from torch import Tensor

from segtrain.engine import stripped
from segtrain.engine.evaluate import monitor_name
from segtrain.types import DataFacts

# Buffers that norms keep; everything else in a state dict counts as a parameter.
_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


@dataclass(frozen=True)
class Contents:
    """One checkpoint file that was read, its digest verified.

    Attributes:
        path: of the file.
        size: bytes.
        parts: what it holds, by name.
    """

    path: Path
    size: int
    parts: dict[str, Any]

    @classmethod
    def read(cls, path: Path) -> Self:
        """Raises CheckpointError where the file is missing, damaged or no checkpoint."""
        return cls(path, path.stat().st_size if path.is_file() else 0, stripped.load(path))

    @property
    def kind(self) -> str:
        if "batches" in self.parts:
            return "a step whose loss or gradient is not finite (segtrain replay)"
        if "optimizer" in self.parts:
            return "training (evaluate, predict, resume)"
        if "config" in self.parts:
            return "stripped (evaluate, predict)"
        return "weights alone (model.weights=FILE)"

    @property
    def step(self) -> int | None:
        step = self._mapping("state").get("step")
        return step if isinstance(step, int) else None

    @property
    def num_parameters(self) -> int:
        """Of the model; auxiliary heads included where they are in the file."""
        return sum(x.numel() for x in self._parameters())

    @property
    def average_updates(self) -> int | None:
        """Updates of the weights' moving average; None where the file holds none."""
        updates = self._mapping("ema").get("updates")
        return updates if isinstance(updates, int) else None

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        names, state = self._mapping("facts").get("class_names"), self._mapping("state")
        return {
            "file": str(self.path),
            "bytes": self.size,
            "kind": self.kind.partition(" (")[0],
            "schema": self.parts.get("schema"),
            "step": self.step,
            "best": {"monitor": self._monitor, "value": state.get("best_value"), "step": state.get("best_step")},
            "choices": {str(group): str(option) for group, option in self._mapping("choices").items()},
            "classes": [str(name) for name in names] if isinstance(names, list | tuple) else [],
            "parameters": self.num_parameters,
            "dtypes": sorted({str(x.dtype).removeprefix("torch.") for x in self._parameters()}),
            "ema_updates": self.average_updates,
            "optimizer": self._target("optimizer"),
            "versions": {str(name): str(version) for name, version in self._mapping("versions").items()},
            "parts": sorted(map(str, self.parts)),
        }

    def rows(self) -> list[tuple[str, str]]:
        """(what, value) as text; what the file does not hold is left out."""
        plain = self.as_dict()
        classes = [str(name) for name in plain["classes"]]
        best, value = plain["best"], plain["best"]["value"]
        average = "" if self.average_updates is None else f"; moving average after {self.average_updates} updates"
        found = {
            "kind": self.kind,
            "schema": str(plain["schema"]),
            "step": "" if self.step is None else str(self.step),
            "best": "" if value is None else f"{best['monitor']} {_short(value)} at step {best['step']}",
            "choices": " ".join(f"{group}={option}" for group, option in sorted(plain["choices"].items())),
            "classes": f"{len(classes)}: {', '.join(classes)}" if classes else "",
            "parameters": f"{self.num_parameters:,} ({', '.join(plain['dtypes'])}){average}",
            "optimizer": str(plain["optimizer"] or ""),
            "versions": ", ".join(f"{name} {version}" for name, version in plain["versions"].items()),
            "holds": ", ".join(plain["parts"]),
        }
        return [(name, text) for name, text in found.items() if text]

    @property
    def _monitor(self) -> str | None:
        trainer = self._mapping("config").get("trainer")
        named = trainer.get("monitor") if isinstance(trainer, dict) else None
        try:
            return monitor_name(named, DataFacts(**self._mapping("facts")))
        except (TypeError, IndexError):  # facts of another segtrain, or of nobody's
            return named

    def _target(self, name: str) -> str | None:
        """The class that a section of the config names, where the file holds its state."""
        section = self._mapping("config").get(name)
        return section.get("_target_") if name in self.parts and isinstance(section, dict) else None

    def _mapping(self, name: str) -> dict[str, Any]:
        part = self.parts.get(name)
        return part if isinstance(part, dict) else {}

    def _parameters(self) -> Iterator[Tensor]:
        for name, x in self._mapping("model").items():
            if isinstance(x, Tensor) and not str(name).endswith(_STATISTICS):
                yield x


def _short(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value)
