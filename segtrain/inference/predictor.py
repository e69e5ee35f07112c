"""A trained model, ready to be shown images."""

import contextlib
import inspect
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from segtrain.inference.label_map import label_map
from segtrain.inference.score_map import Resize, ScoreMap
from segtrain.inference.sliding import Crop, SlidingWindow
from segtrain.inference.strategy import Strategy
from segtrain.types import Area, Hardware


class Predictor:
    """Images in, logits out: normalisation, precision and inference strategy around one model.

    Evaluation in training, `segtrain evaluate` and `segtrain predict` all go through this class.

    Args:
        model: returns `ModelOutput`; put into evaluation mode for the time of each call. One with the attribute
            `align_corners_at_end`, whose `forward` takes `upsample`, is asked for its logits before the last
            upsampling, see `SegmentationModel`.
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
        # A model of the user's own, or one whose `forward` the user wrote anew, may upsample by itself.
        self._leaves_upsampling = hasattr(model, "align_corners_at_end") and _takes(model.forward, "upsample")

    def score_map(self, images: Tensor) -> ScoreMap:
        """uint8 images [N, C, H, W] on any device -> what the strategy makes of them, on the hardware's device."""
        with torch.inference_mode(), evaluation_mode(self.model):
            result: ScoreMap = self.strategy(self._forward, images.to(self.hardware.device, non_blocking=True))
        return result

    def logits(self, images: Tensor) -> Tensor:
        """uint8 images [N, C, H, W] on any device -> float32 logits [N, num_classes, H, W] on the hardware's device."""
        return self.score_map(images).full()

    def labels(self, images: Tensor, threshold: float | None) -> Tensor:
        """uint8 images [N, C, H, W] -> int64 [N, H, W], with less memory than `logits` takes; see `label_map`."""
        return label_map(self.score_map(images), threshold)

    def trace(self, images: Tensor) -> Iterator[tuple[str, ScoreMap]]:
        """The stages on the way to `score_map`, see `Strategy.trace`; the last is what `score_map` returns."""
        stages = self.strategy.trace(self._forward, images.to(self.hardware.device, non_blocking=True))
        while True:
            with torch.inference_mode(), evaluation_mode(self.model):  # not across the yield, where others work
                stage = next(stages, None)
            if stage is None:
                return
            yield stage

    def logits_of(self, area: Area, crop: Crop, whole: Area) -> Tensor:
        """The logits of a part of images too large for memory; the strategy must be a `SlidingWindow`, which see.

        Returns: [N, num_classes, area.height, area.width] float32, on the hardware's device.
        """
        assert isinstance(self.strategy, SlidingWindow)
        device = self.hardware.device
        with torch.inference_mode(), evaluation_mode(self.model):
            return self.strategy.logits_of(area, self._forward, lambda window: crop(window).to(device), whole)

    def _forward(self, images: Tensor) -> ScoreMap:
        inputs = self.normalize(images).contiguous(memory_format=self.hardware.memory_format)
        with self.hardware.autocast():
            if not self._leaves_upsampling:
                return ScoreMap(self.model(inputs).logits.float())
            logits: Tensor = self.model(inputs, upsample=False).logits
        height, width = images.shape[-2:]
        return ScoreMap(logits.float(), (Resize(height, width, bool(self.model.align_corners_at_end)),))


def _takes(function: Callable[..., object], name: str) -> bool:
    """Whether `function` can be called with an argument of that name."""
    parameters = inspect.signature(function).parameters
    return name in parameters or any(each.kind is inspect.Parameter.VAR_KEYWORD for each in parameters.values())


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
