"""What happened since the last line of the log."""

import contextlib
import math
import time
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

EMPTY: dict[str, Any] = {"sums": {}, "steps": 0, "images": 0, "waited": 0.0, "elapsed": 0.0} | {
    "norms": 0.0,
    "finite_norms": 0,
}


class Window:
    """Means over the steps and the time since the last line of the log.

    Losses are summed on the device, so that adding one does not wait for it; `means` does. A window is part of a
    checkpoint, so that the first line after a resume covers as many steps as any other.

    Args:
        device: where losses are summed.
        state: of a window to go on with, as `state_dict` gave it; None for an empty one.
    """

    def __init__(self, device: torch.device, state: Mapping[str, Any] | None = None) -> None:
        state = EMPTY if state is None else state
        self._sums: dict[str, Tensor] = {name: value.to(device) for name, value in state["sums"].items()}
        self._device = device
        self._steps: int = state["steps"]
        self._images: int = state["images"]
        self._waited: float = state["waited"]
        self._norms: float = state["norms"]
        self._finite_norms: int = state["finite_norms"]
        self._excluded = -float(state["elapsed"])
        self._started = time.perf_counter()

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values, for a checkpoint."""
        return {
            "sums": dict(self._sums),
            "steps": self._steps,
            "images": self._images,
            "waited": self._waited,
            "elapsed": self._elapsed(),
            "norms": self._norms,
            "finite_norms": self._finite_norms,
        }

    @contextlib.contextmanager
    def waiting_for_data(self) -> Iterator[None]:
        """The time inside counts as time the training waited for its loader."""
        started = time.perf_counter()
        yield
        self._waited += time.perf_counter() - started

    @contextlib.contextmanager
    def pause(self) -> Iterator[None]:
        """The time inside, an evaluation say, is no part of the training pace."""
        started = time.perf_counter()
        yield
        self._excluded += time.perf_counter() - started

    def add(self, loss: Tensor, terms: Mapping[str, Tensor], gradient_norm: float, images: int) -> None:
        """Adds one step: its loss, the loss's named terms, the gradient's norm, and its number of images."""
        for name, value in {"loss": loss, **{f"loss/{name}": term for name, term in terms.items()}}.items():
            self._sums[name] = self._sums.get(name, torch.zeros((), device=self._device)) + value.detach()
        self._steps += 1
        self._images += images
        if math.isfinite(gradient_norm):
            self._norms += gradient_norm
            self._finite_norms += 1

    def means(self) -> dict[str, float]:
        """Means per step of loss, terms and `gradient_norm` (L2, over all parameters, before clipping; of finite ones);
        `images_per_second`; `data_share` of the time spent waiting for data, 0..1."""
        steps = max(self._steps, 1)
        values = {name: float(total) / steps for name, total in self._sums.items()}
        values["gradient_norm"] = self._norms / max(self._finite_norms, 1)
        elapsed = max(self._elapsed(), 1e-9)
        values["images_per_second"] = self._images / elapsed
        values["data_share"] = min(self._waited / elapsed, 1.0)
        return values

    def _elapsed(self) -> float:
        return time.perf_counter() - self._started - self._excluded
