"""Evaluation: predictor -> confusion matrix -> mIoU. Training and `segtrain evaluate` call the same function."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from segtrain.engine.progress import Progress
from segtrain.errors import ConfigError, nearest, one_line
from segtrain.inference import Predictor
from segtrain.metrics import ConfusionMatrix
from segtrain.types import Batch, DataFacts, Example, ModelOutput, Sample


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation found.

    Attributes:
        matrix: rows = truth, columns = prediction; void truth left out.
        loss: of the criterion's total and of each term, by name: mean of the batches' losses, weighted by their valid
            pixels. For plain cross-entropy that is the mean over all valid pixels; class weights and Dice make it
            depend a little on `data.eval_batch_size`.
        images: number of images.
        examples: a few images of the data set, evenly spread.
    """

    matrix: ConfusionMatrix
    loss: dict[str, float]
    images: int
    examples: list[Example]

    def results(self, facts: DataFacts) -> dict[str, Any]:
        """The contents of `results.json`: the metrics (see `ConfusionMatrix.summary`), losses, number of images."""
        loss = {name: value if math.isfinite(value) else None for name, value in self.loss.items()}
        return {"images": self.images, "loss": loss, **self.matrix.summary(facts.class_names)}

    def scalars(self, facts: DataFacts) -> dict[str, float | None]:
        """The same numbers, flat: what is logged, and what a monitor can name. Per class as `iou/<class>`."""
        summary = self.matrix.summary(facts.class_names)
        flat: dict[str, float | None] = {
            name: value for name, value in summary.items() if isinstance(value, float) or value is None
        }
        flat |= {f"iou/{name}": entry["iou"] for name, entry in summary["per_class"].items()}
        return self.loss | flat


def check_monitor(monitor: str, terms: Iterable[str], facts: DataFacts) -> None:
    """Raise ConfigError unless evaluations will have a metric of this name; asked before hours are spent training.

    Args:
        monitor: name of a metric.
        terms: names of the loss's terms, as `try_criterion` returns them.
        facts: of the data.
    """
    losses = dict.fromkeys(("loss", *(f"loss/{term}" for term in terms)), 0.0)
    known = Evaluation(ConfusionMatrix(facts.num_classes, facts.ignore_index), losses, 0, []).scalars(facts)
    if monitor not in known:
        raise ConfigError(f"trainer.monitor={monitor}: no such metric{nearest(monitor, known)} ({', '.join(known)})")


def try_criterion(criterion: nn.Module, facts: DataFacts, device: torch.device) -> list[str]:
    """Names of the terms that the criterion returns, found by calling it on one pixel.

    Raises:
        ConfigError: it cannot be called with logits and labels: it is no loss.
    """
    logits = torch.zeros(1, facts.num_classes, 1, 1, device=device)
    labels = torch.zeros(1, 1, 1, dtype=torch.long, device=device)
    try:
        return list(criterion(ModelOutput(logits, {}), labels).terms)
    except (TypeError, ValueError, RuntimeError, AttributeError, NotImplementedError) as error:
        raise ConfigError(
            f"loss: it cannot be called with logits [N, {facts.num_classes}, H, W] and labels [N, H, W] "
            f"({one_line(error)}); name a loss (segtrain list losses)"
        ) from error


def evaluate(
    predictor: Predictor,
    criterion: nn.Module,
    batches: Iterable[list[Batch]],
    facts: DataFacts,
    num_images: int,
    num_examples: int,
    should_stop: Callable[[], bool] = lambda: False,
) -> Evaluation | None:
    """Evaluates every image exactly once, at its own resolution.

    Args:
        predictor: the model, with the inference strategy.
        criterion: (ModelOutput, labels) -> (total, terms), for the validation loss.
        batches: lists of batches; within a batch all images have one size.
        facts: of the data.
        num_images: how many images `batches` holds, for the progress bar.
        num_examples: how many images, evenly spread over the set, are kept as `examples`.
        should_stop: asked after each batch.

    Returns:
        The evaluation, or None if `should_stop` ended it early.
    """
    matrix = ConfusionMatrix(len(facts.class_names), facts.ignore_index)
    sums: dict[str, float] = {}
    valid_pixels = images = 0
    examples: list[Example] = []
    # Spread over the set: the first images of a video are all alike.
    chosen = {int(i) for i in np.linspace(0, num_images - 1, min(num_examples, num_images)).round()}
    with Progress("evaluate", num_images, unit="img", line_every=None, transient=True) as progress:
        for batch in (batch for group in batches for batch in group):
            logits = predictor.logits(batch.images)
            labels = batch.labels.to(logits.device, non_blocking=True).long()
            predictions = logits.argmax(dim=1)
            matrix.update(predictions, labels)
            with torch.no_grad():
                loss = criterion(ModelOutput(logits, {}), labels)
            valid = int((labels != facts.ignore_index).sum())
            for name, value in {"loss": loss.total, **_prefixed(loss.terms)}.items():
                sums[name] = sums.get(name, 0.0) + float(value) * valid
            valid_pixels += valid
            wanted = [i for i in range(len(batch.names)) if images + i in chosen]
            examples += _examples(batch, predictions, wanted)
            images += len(batch.names)
            progress.advance(len(batch.names))
            if should_stop():
                return None
    means = {name: total / max(valid_pixels, 1) for name, total in sums.items()}
    return Evaluation(matrix, means, images, examples)


def _prefixed(terms: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"loss/{name}": value for name, value in terms.items()}


def _examples(batch: Batch, predictions: Tensor, wanted: list[int]) -> list[Example]:
    return [
        Example(
            Sample(batch.images[i].permute(1, 2, 0).numpy(), batch.labels[i].numpy(), batch.names[i]),
            predictions[i].cpu().numpy(),
        )
        for i in wanted
    ]
