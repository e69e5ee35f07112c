"""What happened since the last line of the log."""

import contextlib
import time
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor


class Window:
    """Means over the batches and the time since it was made.

    Losses are summed on the device, so that adding one does not wait for it; `means` does.
    """

    def __init__(self, device: torch.device) -> None:
        self._sums: dict[str, Tensor] = {}
        self._device = device
        self._batches = 0
        self._images = 0
        self._waited = 0.0
        self._excluded = 0.0
        self._started = time.perf_counter()
        self.gradient_norm: Tensor | None = None

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

    def add(self, loss: Tensor, terms: Mapping[str, Tensor], images: int) -> None:
        """Adds one batch: its loss, the loss's named terms, and its number of images."""
        for name, value in {"loss": loss, **{f"loss/{name}": term for name, term in terms.items()}}.items():
            self._sums[name] = self._sums.get(name, torch.zeros((), device=self._device)) + value.detach()
        self._batches += 1
        self._images += images

    def mean_loss(self) -> float:
        """Mean loss per batch; 0 before the first."""
        return float(self._sums.get("loss", 0.0)) / max(self._batches, 1)

    def means(self) -> dict[str, float]:
        """Mean loss and terms per batch, `images_per_second`, `data_share` (of time spent waiting for data, 0..1)."""
        values = {name: float(total) / max(self._batches, 1) for name, total in self._sums.items()}
        elapsed = max(time.perf_counter() - self._started - self._excluded, 1e-9)
        values["images_per_second"] = self._images / elapsed
        values["data_share"] = min(self._waited / elapsed, 1.0)
        if self.gradient_norm is not None:
            values["gradient_norm"] = float(self.gradient_norm)
        return values
