"""A trained model, ready to be shown images."""

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from segtrain.inference.strategy import Strategy
from segtrain.types import Hardware


class Predictor:
    """Images in, logits out: normalisation, precision and inference strategy around one model.

    Evaluation in training, `segtrain evaluate` and `segtrain predict` all go through this class.

    Args:
        model: returns `ModelOutput`; put into evaluation mode for the time of each call.
        normalize: uint8 [N, C, H, W] -> float, on the device.
        strategy: see `segtrain.inference.strategy`.
        hardware: device, number format and memory layout.
    """

    def __init__(
        self,
        model: nn.Module,
        normalize: nn.Module,
        strategy: Strategy,
        hardware: Hardware,
    ) -> None:
        self.model = model
        self.normalize = normalize
        self.strategy = strategy
        self.hardware = hardware

    def logits(self, images: Tensor) -> Tensor:
        """uint8 images [N, C, H, W] on any device -> float32 logits [N, num_classes, H, W] on the hardware's device."""
        with torch.inference_mode(), evaluation_mode(self.model):
            result: Tensor = self.strategy(self._forward, images.to(self.hardware.device, non_blocking=True))
        return result

    def trace(self, images: Tensor) -> Iterator[tuple[str, Tensor]]:
        """The stages on the way to `logits`, see `Strategy.trace`; the last has what `logits` returns."""
        stages = self.strategy.trace(self._forward, images.to(self.hardware.device, non_blocking=True))
        while True:
            with torch.inference_mode(), evaluation_mode(self.model):  # not across the yield, where others work
                stage = next(stages, None)
            if stage is None:
                return
            yield stage

    def _forward(self, images: Tensor) -> Tensor:
        inputs = self.normalize(images).contiguous(memory_format=self.hardware.memory_format)
        with self.hardware.autocast():
            logits: Tensor = self.model(inputs).logits
        return logits.float()


@contextlib.contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Puts `model` into evaluation mode, and each of its parts back into the mode it was in."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
