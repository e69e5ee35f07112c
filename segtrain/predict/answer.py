"""What is asked of a model for one image: labels alone, or as much more as the products show."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from segtrain.engine.memory import prediction_fits
from segtrain.inference import Predictor, label_map
from segtrain.predict.products import TOLD, Prediction, Product
from segtrain.report.beliefs import Stage, Story
from segtrain.report.pictures import as_rgb

TILE = 320  # pixels of the longer side of a map in the figure of scores and beliefs
MOST_REFINEMENTS = 10  # columns of them: as many as DeepLab's CRF has iterations


@dataclass(frozen=True)
class Questions:
    """Asks a model for what the products need and no more: full-size probabilities of many classes fill a memory.

    Attributes:
        predictor: the model.
        products: that will be written.
        threshold: of a binary task.
        figure_classes: the most classes in a figure of scores and beliefs.
    """

    predictor: Predictor
    products: Sequence[Product]
    threshold: float | None
    figure_classes: int

    def ask(self, image: NDArray[np.uint8], seen: Tensor) -> Prediction:
        """What the model says of an image.

        Args:
            image: [H, W, C] uint8, as it was read.
            seen: [1, C, H, W] uint8, as the model is to see it.

        Raises:
            MachineError: the memory does not suffice.
        """
        with prediction_fits(), torch.inference_mode():
            if any(product in TOLD for product in self.products):
                return self._with_story(image, seen)
            if "probabilities" in self.products or "confidence" in self.products:
                return self._with_probabilities(image, self.predictor.logits(seen))
            return Prediction(image, _narrow(self.predictor.labels(seen, self.threshold)[0]))

    def _with_probabilities(self, image: NDArray[np.uint8], logits: Tensor) -> Prediction:
        labels = label_map(logits, self.threshold)
        probabilities = confidence = None
        if "probabilities" in self.products or "confidence" in self.products:
            belief = logits.softmax(dim=1)
            if "confidence" in self.products:
                chosen = belief.gather(1, labels[:, None])[0, 0]
                confidence = (255 * chosen).round().byte().cpu().numpy()
            if "probabilities" in self.products:
                probabilities = belief[0].half().cpu().numpy()
        return Prediction(image, _narrow(labels[0]), probabilities, confidence)

    def _with_story(self, image: NDArray[np.uint8], seen: Tensor) -> Prediction:
        """Goes the way to the label map stage by stage; of each, no more is kept than the figure shows."""
        size = _tile_size(*image.shape[:2])
        titles: list[str] = []
        scores: list[NDArray[np.float32]] = []
        beliefs: list[NDArray[np.float16]] = []
        labels: list[NDArray[np.integer]] = []
        for title, score_map in self.predictor.trace(seen):
            titles.append(title)
            logits = score_map.full()
            if not scores:
                scores.append(F.interpolate(logits, size=size, mode="area")[0].cpu().numpy())
            beliefs.append(F.interpolate(logits.softmax(dim=1), size=size, mode="area")[0].half().cpu().numpy())
            labels.append(_picked(_narrow(label_map(logits, self.threshold)[0]), size))
        prediction = self._with_probabilities(image, logits)
        classes = shown_classes(labels, beliefs, self.figure_classes)
        stages = []
        if "scores" in self.products:
            stages.append(Stage("score", "score,\nbefore softmax", scores[0][classes], labels[0]))
        if "beliefs" in self.products:
            highest = beliefs[0].max(axis=0)
            stages.append(Stage("belief", "belief,\nafter softmax", beliefs[0][classes], highest))
            stages += [
                Stage("belief", titles[i], beliefs[i][classes], labels[i]) for i in shown_refinements(len(titles))
            ]
        story = Story(_picked(as_rgb(image), size), _picked(prediction.labels, size), classes, stages)
        return Prediction(image, prediction.labels, prediction.probabilities, prediction.confidence, story)


def shown_classes(
    labels: Sequence[NDArray[np.integer]], beliefs: Sequence[NDArray[np.floating]], most: int
) -> list[int]:
    """The classes that some pixel has at the first stage or at the last, in their order.

    Where there are more than `most`, those that are believed in most, on the mean over pixels of these two stages.
    """
    present = np.unique(np.concatenate([labels[0].ravel(), labels[-1].ravel()]))
    weight = beliefs[0].mean(axis=(1, 2), dtype=np.float32) + beliefs[-1].mean(axis=(1, 2), dtype=np.float32)
    return sorted(sorted(present.tolist(), key=lambda index: -weight[index])[:most])


def shown_refinements(stages: int) -> list[int]:
    """Which of the stages after the first are shown: all, or of very many some at equal distances, the last one too."""
    count = min(stages - 1, MOST_REFINEMENTS)
    return [round(number) for number in np.linspace(1, stages - 1, count)] if count else []


def _narrow(labels: Tensor) -> NDArray[np.integer]:
    """On the CPU, in as many bytes as class indices need: eight each are what they come in."""
    return labels.to(torch.uint8 if int(labels.max()) < 256 else torch.int32).cpu().numpy()


def _tile_size(height: int, width: int) -> tuple[int, int]:
    scale = min(TILE / max(height, width), 1)
    return max(round(height * scale), 1), max(round(width * scale), 1)


def _picked(array: NDArray, size: tuple[int, int]) -> NDArray:
    """[h, w, ...] of [H, W, ...]: every so many pixels one, that in the middle."""
    rows, columns = (
        ((np.arange(n) + 0.5) * whole / n).astype(int) for n, whole in zip(size, array.shape, strict=False)
    )
    return array[rows[:, None], columns]
