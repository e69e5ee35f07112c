"""`segtrain evaluate`: a saved checkpoint on a validation or test set, by the code that training evaluates with.

With `-m` several evaluations follow each other, such as one for each way of inference, and end in one table.
"""

import logging
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segtrain import compose
from segtrain.compose import Job
from segtrain.data.loader import eval_loader
from segtrain.engine.evaluate import Evaluation, evaluate, monitor_name, try_criterion
from segtrain.engine.logger import logged_to_terminal
from segtrain.engine.memory import evaluation_fits
from segtrain.engine.run_directory import RunDirectory, check_output, write_json
from segtrain.load import LoadedModel, build_criterion, load_model, open_split
from segtrain.options import MeasuringOptions, read_options
from segtrain.report.examples import draw_examples
from segtrain.report.pictures import save_picture

log = logging.getLogger("segtrain")

OWN_KEYS = ("checkpoint", "weights", "output", "trust", "debug")


@dataclass(frozen=True)
class Row:
    """One of several evaluations, as a line of their table.

    Attributes:
        words: the command line's, of this evaluation.
        score: the metric that the task is judged by, None where it does not exist.
        images_per_second: reading, model and metric together.
        results: where all its numbers are.
    """

    words: tuple[str, ...]
    score: float | None
    images_per_second: float
    results: Path


def run(argv: Sequence[str]) -> int:
    rows: list[Row] = []
    code = compose.run_command("evaluate", argv, lambda job: rows.append(task(job)), own_keys=OWN_KEYS)
    if len(rows) > 1:
        print(comparison(rows))
    return code


def task(job: Job) -> Row:
    with logged_to_terminal():
        return _evaluate(job)


def comparison(rows: Sequence[Row]) -> str:
    """The table of several evaluations; scores in points below the first, or above."""
    names = _names(rows)
    width = max(map(len, names))
    first = rows[0].score
    lines = [f"{'':<{width}}   score  change  images/s  results"]
    for name, row in zip(names, rows, strict=True):
        score = "-" if row.score is None else f"{row.score:.4f}"
        change = "" if row is rows[0] or row.score is None or first is None else f"{100 * (row.score - first):+.2f}"
        lines.append(f"{name:<{width}}  {score:>6}  {change:>6}  {row.images_per_second:>8.2f}  {row.results}")
    return "\n".join(lines)


def _names(rows: Sequence[Row]) -> list[str]:
    """What tells each row from the others: its words without those that all have; all of them where none is left."""
    shared = set(rows[0].words).intersection(*(row.words for row in rows))
    names = [" ".join(word for word in row.words if word not in shared) for row in rows]
    return names if any(names) else [" ".join(row.words) for row in rows]


def _evaluate(job: Job) -> Row:
    folder = read_options(job.config, MeasuringOptions).folder
    if job.number is not None:
        folder = folder / "evaluations" / f"{job.number}_{_file_name(job)}"
    check_output(folder)
    loaded = load_model(job, "data", "augment.evaluate", "loss", "inference", "trainer")
    builder, facts = loaded.builder, loaded.facts
    options = builder.trainer_options()
    dataset, split = open_split(loaded)
    criterion = build_criterion(builder, facts, loaded.contents, loaded.path, None, loaded.predictor.model)
    criterion = criterion.to(loaded.hardware.device)
    try_criterion(criterion, facts, loaded.hardware.device)
    batches = eval_loader(dataset, builder.loader_options(), loaded.hardware.device.type == "cuda")
    begun = time.perf_counter()
    with evaluation_fits():
        evaluation = evaluate(loaded.predictor, criterion, batches, facts, len(dataset), options.pictures)
    assert evaluation is not None
    images_per_second = evaluation.images / (time.perf_counter() - begun)
    results = _report(folder, loaded, evaluation, split, images_per_second)
    score = evaluation.scalars(facts)[monitor_name(None, facts)]
    return Row(job.overrides, score, images_per_second, results)


def _file_name(job: Job) -> str:
    """What the command line says beyond the file itself. The folder's number tells it from those of other jobs."""
    words = [word for word in job.overrides if not word.startswith(("output=", "trust=", "debug="))]
    said = " ".join(words if len(words) == 1 else [word for word in words if not word.startswith("checkpoint=")])
    return re.sub(r"[^\w.=,+-]+", "_", said)[-100:]


def _report(path: Path, loaded: LoadedModel, evaluation: Evaluation, split: str, images_per_second: float) -> Path:
    """Prints the scores and writes `results.json`, whose path is returned, and the pictures."""
    facts, step = loaded.facts, loaded.contents["state"]["step"]
    folder = RunDirectory(path)
    folder.path.mkdir(parents=True, exist_ok=True)
    where: dict[str, Any] = {"step": step, "checkpoint": str(loaded.path), "split": split}
    where["images_per_second"] = round(images_per_second, 3)
    write_json(folder.results, where | evaluation.results(facts))
    print(evaluation.table(facts))
    log.info(
        "%d images of split %s, checkpoint of step %d, loss %.4f, %.2f images/s",
        evaluation.images,
        split,
        step,
        evaluation.loss["loss"],
        images_per_second,
    )
    log.info("results: %s", folder.results)
    if evaluation.examples:
        folder.pictures.mkdir(exist_ok=True)
        picture = folder.pictures / f"{split}_step_{step:07d}.png"
        save_picture(picture, draw_examples(evaluation.examples, facts))
        log.info("picture: %s", picture)
    return folder.results
