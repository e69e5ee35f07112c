"""Finding parameters of the dense CRF by trying them on score maps that are computed once."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from segtrain.engine.crf_grid import Parameters, combinations, refined
from segtrain.engine.evaluate import Evaluation, monitor_name
from segtrain.engine.progress import Progress
from segtrain.inference import Predictor, label_map
from segtrain.inference.crf import DenseCRF
from segtrain.inference.score_map import Resize, ScoreMap
from segtrain.metrics import ConfusionMatrix
from segtrain.types import Batch, DataFacts

# Parameters -> the CRF that has them.
MakeCRF = Callable[[Parameters], DenseCRF]


@dataclass(frozen=True)
class Comparison:
    """What the same images scored without a CRF and with one."""

    before: ConfusionMatrix
    after: ConfusionMatrix
    images: int

    def loss(self, title: str, facts: DataFacts) -> str | None:
        """One line that says so where the CRF lowers what the task is judged by; `title` names the images."""
        before, after = score(self.before, facts), score(self.after, facts)
        if not after < before:
            return None
        judged = "mIoU" if facts.foreground is None else f"IoU of {facts.foreground}"
        change = f"lowers the {judged} of the {title} images from {before:.4f} to {after:.4f}"
        return f"the best CRF found {change}: better without a CRF"


@dataclass(frozen=True)
class Trial:
    """One set of parameters, and what it scored on all the images searched on."""

    parameters: Parameters
    matrix: ConfusionMatrix


def score(matrix: ConfusionMatrix, facts: DataFacts) -> float:
    """What the task is judged by: mIoU, or the IoU of a binary task's foreground."""
    value = Evaluation(matrix, {}, 0, []).scalars(facts)[monitor_name(None, facts)]
    return float("nan") if value is None else value


class KeptScores:
    """Images with their labels and score maps, in files: those of a whole validation set may not fit in memory.

    Score maps are kept at the model's resolution, as log-probabilities in float16. What they are without a CRF is
    counted before that rounding.

    Args:
        folder: where the files are written, one an image; the caller removes it.
        facts: of the data.

    Attributes:
        before: the confusion matrix without a CRF.
    """

    def __init__(self, folder: Path, facts: DataFacts) -> None:
        self.before = ConfusionMatrix(facts.num_classes, facts.ignore_index)
        self._folder = folder
        self._facts = facts
        self._kept: list[tuple[Path, tuple[Resize, ...]]] = []

    def __len__(self) -> int:
        return len(self._kept)

    def keep(self, predictor: Predictor, batches: Iterable[list[Batch]], num_images: int) -> None:
        """Runs the model on every image, once."""
        with Progress("scores", num_images, unit="img", line_every=100) as progress:
            for batch in (batch for group in batches for batch in group):
                scores = predictor.score_map(batch.images)
                labels = batch.labels.to(scores.values.device).long()
                self.before.update(label_map(scores, self._facts.threshold), labels)
                # Resizing what is the same for all classes leaves it the same for all.
                values = scores.values.log_softmax(dim=1).half().cpu()
                for item in zip(batch.images, values, batch.labels, strict=True):
                    self.add(*item, scores.resizes)
                progress.advance(len(batch.names))

    def add(self, image: Tensor, values: Tensor, labels: Tensor, resizes: tuple[Resize, ...]) -> None:
        """Keeps one image, the values of its score map [C, h, w], and its labels."""
        path = self._folder / f"{len(self._kept)}.pt"
        torch.save([image.clone(), values.clone(), labels.clone()], path)
        self._kept.append((path, resizes))

    def items(self, device: torch.device) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Image [channels, H, W] uint8, score map [C, H, W] float32 and labels [H, W] int64 of each, on the device."""
        for path, resizes in self._kept:
            image, values, labels = torch.load(path, weights_only=True)
            scores = ScoreMap(values[None].to(device).float(), resizes).full()[0]
            yield image.to(device), scores, labels.to(device).long()


def search(
    kept: KeptScores,
    make: MakeCRF,
    axes: Mapping[str, Sequence[float]],
    rounds: int,
    facts: DataFacts,
    device: torch.device,
) -> list[Trial]:
    """Tries every combination of the axes' values, then of finer ones around the best, `rounds` times in all.

    Returns: all trials, the best first; of equal ones the one tried first.
    """
    trials: dict[tuple[float, ...], Trial] = {}
    for number in range(rounds):
        candidates = [parameters for parameters in combinations(axes) if tuple(parameters.values()) not in trials]
        for trial in _tried(kept, make, candidates, facts, device, f"round {number + 1}/{rounds}"):
            trials[tuple(trial.parameters.values())] = trial
        # nan, where no pixel counts, is the same for all
        ranked = sorted(trials.values(), key=lambda trial: -score(trial.matrix, facts))
        axes = refined(axes, ranked[0].parameters)
    return ranked


def _tried(
    kept: KeptScores,
    make: MakeCRF,
    candidates: Sequence[Parameters],
    facts: DataFacts,
    device: torch.device,
    name: str,
) -> list[Trial]:
    trials = [Trial(each, ConfusionMatrix(facts.num_classes, facts.ignore_index)) for each in candidates]
    with Progress(name, len(kept) * len(trials), unit="CRF", line_every=100) as progress, torch.inference_mode():
        for image, scores, labels in kept.items(device):
            for trial in trials:
                refined_scores = make(trial.parameters).refine(image, scores)
                trial.matrix.update(label_map(refined_scores[None], facts.threshold), labels[None])
                progress.advance()
    return trials


def compare(
    predictor: Predictor, crf: DenseCRF, batches: Iterable[list[Batch]], facts: DataFacts, num_images: int
) -> Comparison:
    """What images score without and with the CRF, which were not among those searched on."""
    before, after = (ConfusionMatrix(facts.num_classes, facts.ignore_index) for _ in range(2))
    images = 0
    with Progress("held-out images", num_images, unit="img", line_every=100) as progress, torch.inference_mode():
        for batch in (batch for group in batches for batch in group):
            logits = predictor.logits(batch.images)
            labels = batch.labels.to(logits.device).long()
            before.update(label_map(logits, facts.threshold), labels)
            for image, scores, truth in zip(batch.images.to(logits.device), logits, labels, strict=True):
                after.update(label_map(crf.refine(image, scores)[None], facts.threshold), truth[None])
            images += len(batch.names)
            progress.advance(len(batch.names))
    return Comparison(before, after, images)


def table(comparisons: Mapping[str, Comparison], facts: DataFacts) -> str:
    """IoU per class without and with the CRF, and the change, for each set of images, as aligned plain text."""
    columns = [["", "class", *facts.class_names, "mean"]]
    for title, found in comparisons.items():
        before, after = ([*matrix.iou().tolist(), matrix.miou()] for matrix in (found.before, found.after))
        columns.append([title, "before", *map(_cell, before)])
        columns.append(["", "after", *map(_cell, after)])
        columns.append(["", "change", *(_cell(b - a, "+.4f") for a, b in zip(before, after, strict=True))])
    widths = [max(map(len, column)) for column in columns]
    rows = []
    for first, *rest in zip(*columns, strict=True):
        cells = [cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True)]
        rows.append("  ".join([first.ljust(widths[0]), *cells]).rstrip())
    rule = "-" * max(map(len, rows))
    return "\n".join([*rows[:2], rule, *rows[2:-1], rule, rows[-1]])


def _cell(value: float, form: str = ".4f") -> str:
    return "absent" if value != value else format(value, form)
