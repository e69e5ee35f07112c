"""Evaluation: predictor -> confusion matrix -> mIoU. Training and `segtrain evaluate` call the same function."""

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Sized
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from segtrain.distributed.world import World
from segtrain.engine.progress import Progress
from segtrain.errors import ConfigError, DataError, MachineError, nearest, one_line
from segtrain.inference import Predictor, label_map
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
        """The contents of `results.json`: the metrics (see `ConfusionMatrix.summary`), losses, number of images.

        Of a binary task also `foreground`: its name, the threshold, IoU, Dice, precision and recall.
        """
        loss = {name: value if math.isfinite(value) else None for name, value in self.loss.items()}
        results = {"images": self.images, "loss": loss, **self.matrix.summary(facts.class_names)}
        if facts.foreground is not None:
            results["foreground"] = {"name": facts.foreground, "threshold": facts.threshold, **self._foreground(facts)}
        return results

    def scalars(self, facts: DataFacts) -> dict[str, float | None]:
        """The same numbers, flat: what is logged, and what a monitor can name. Per class as `iou/<class>`.

        Of a binary task's foreground also `dice/<class>`, `precision/<class>` and `recall/<class>`.
        """
        summary = self.matrix.summary(facts.class_names)
        flat: dict[str, float | None] = {
            name: value for name, value in summary.items() if isinstance(value, float) or value is None
        }
        flat |= {f"iou/{name}": entry["iou"] for name, entry in summary["per_class"].items()}
        flat |= {f"{score}/{facts.foreground}": value for score, value in self._foreground(facts).items()}
        return self.loss | flat

    def table(self, facts: DataFacts) -> str:
        """The scores as plain text; of a binary task the foreground's have a line of their own."""
        table = self.matrix.table(facts.class_names)
        if facts.foreground is None:
            return table
        scores = [f"{name} {_number(value)}" for name, value in self._foreground(facts).items()]
        return f"{table}\nforeground {facts.foreground} at threshold {facts.threshold:g}: {', '.join(scores)}"

    def headline(self, facts: DataFacts) -> str:
        """The score that the task is judged by, for a line of the log: `mIoU 0.7012`, `IoU of disc 0.8123`."""
        name = "mIoU" if facts.foreground is None else f"IoU of {facts.foreground}"
        return f"{name} {_number(self.scalars(facts)[monitor_name(None, facts)])}"

    def _foreground(self, facts: DataFacts) -> dict[str, float | None]:
        """Scores of a binary task's foreground, None where they do not exist; empty for another task."""
        if facts.foreground is None:
            return {}
        scores = self.matrix.summary(facts.class_names)["per_class"][facts.foreground]
        names = {"iou": "iou", "dice": "dice", "precision": "precision", "recall": "accuracy"}
        return {name: scores[ours] for name, ours in names.items()}


def monitor_name(monitor: str | None, facts: DataFacts) -> str:
    """The metric by which one checkpoint is better than another: `monitor`, or if None what the task is judged by."""
    if monitor is not None:
        return monitor
    return "miou" if facts.foreground is None else f"iou/{facts.foreground}"


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
    world: World | None = None,
) -> Evaluation | None:
    """Evaluates every image exactly once, at its own resolution.

    Several processes each evaluate their part, and all get the same result, but for `examples`, which are the main
    one's. Counts are added as integers, so that the confusion matrix is that of one process.

    Args:
        predictor: the model, with the inference strategy.
        criterion: (ModelOutput, labels) -> (total, terms), for the validation loss.
        batches: lists of batches; within a batch all images have one size. Of several processes each has every
            `world.size`-th image, from its rank on, and a list of lists with a length.
        facts: of the data.
        num_images: how many images the data set holds.
        num_examples: how many images, evenly spread over the set, are kept as `examples`.
        should_stop: asked after each list; the same answer in every process.
        world: the processes that evaluate together; None: this one alone.

    Returns:
        The evaluation, or None if `should_stop` ended it early.

    Raises:
        DataError: an image cannot be read, or none of several processes had one.
        SharedFailureError: one of several processes cannot read its images.
    """
    world = world or World.solo(predictor.hardware.device)
    matrix = ConfusionMatrix(len(facts.class_names), facts.ignore_index)
    sums: dict[str, float] = {}
    valid_pixels = images = 0
    examples: list[tuple[int, Example]] = []
    # Spread over the set: the first images of a video are all alike.
    chosen = {int(i) for i in np.linspace(0, num_images - 1, min(num_examples, num_images)).round()}
    own_images = len(range(world.rank, num_images, world.size))
    with Progress(
        "evaluate", own_images, unit="img", line_every=None, transient=True, silent=not world.is_main
    ) as progress:
        for group in _in_step(batches, world):
            for batch in group:
                logits = predictor.logits(batch.images)
                labels = batch.labels.to(logits.device, non_blocking=True).long()
                predictions = label_map(logits, facts.threshold)
                matrix.update(predictions, labels)
                with torch.no_grad():
                    loss = criterion(ModelOutput(logits, {}), labels)
                valid = int((labels != facts.ignore_index).sum())
                for name, value in {"loss": loss.total, **_prefixed(loss.terms)}.items():
                    sums[name] = sums.get(name, 0.0) + float(value) * valid
                valid_pixels += valid
                places = [(images + i) * world.size + world.rank for i in range(len(batch.names))]
                examples += _examples(batch, predictions, places, chosen)
                images += len(batch.names)
                progress.advance(len(batch.names))
            if should_stop():
                return None
    matrix.matrix = world.sum(matrix.matrix)
    sums, valid_pixels, images, examples = _merged(world, (sums, valid_pixels, images, examples))
    if images == 0 and world.size > 1:
        none = DataError(f"none of the {num_images} evaluation samples can be read; the log says why")
        world.share_failure(none, "read its data")
    means = {name: total / max(valid_pixels, 1) for name, total in sums.items()}
    return Evaluation(matrix, means, images, [example for _, example in examples])


# Sums of losses times valid pixels, valid pixels, images, and examples with their places in the data set.
_Found = tuple[dict[str, float], int, int, list[tuple[int, Example]]]


def _in_step(batches: Iterable[list[Batch]], world: World) -> Iterator[list[Batch]]:
    """The lists of this process, and empty ones where others have more, so that all ask `should_stop` as often."""
    if world.size == 1:
        yield from batches
        return
    assert isinstance(batches, Sized)
    own = iter(batches)
    for _ in range(world.largest(len(batches))):
        group: list[Batch] = []
        failure: Exception | None = None
        try:
            group = next(own, [])
        except (DataError, MachineError) as error:
            failure = error
        world.share_failure(failure, "read its data")
        yield group


def _merged(world: World, found: _Found) -> _Found:
    """What all processes found, added in the order of their ranks; examples in the main process only."""
    if world.size == 1:
        return found
    parts: list[_Found] = world.gather(found)
    sums: dict[str, float] = {}
    for part in parts:
        for name, total in part[0].items():
            sums[name] = sums.get(name, 0.0) + total
    sums, valid_pixels, images = world.broadcast((sums, sum(part[1] for part in parts), sum(part[2] for part in parts)))
    examples = sorted((example for part in parts for example in part[3]), key=lambda example: example[0])
    return sums, valid_pixels, images, examples


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _prefixed(terms: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"loss/{name}": value for name, value in terms.items()}


def _examples(
    batch: Batch, predictions: Tensor, places: list[int], chosen: Collection[int]
) -> list[tuple[int, Example]]:
    """Those of the batch's images whose places in the data set are `chosen`, with their places."""
    return [
        (
            place,
            Example(
                Sample(batch.images[i].permute(1, 2, 0).numpy(), batch.labels[i].numpy(), batch.names[i]),
                predictions[i].cpu().numpy(),
            ),
        )
        for i, place in enumerate(places)
        if place in chosen
    ]
