"""`segtrain evaluate`: a saved checkpoint on a validation or test set, by the code that training evaluates with."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from segtrain import compose
from segtrain.compose import Job
from segtrain.data.dataset import LabelledDataset
from segtrain.data.loader import eval_loader
from segtrain.engine.evaluate import Evaluation, evaluate, try_criterion
from segtrain.engine.logger import logged_to_terminal
from segtrain.engine.memory import evaluation_fits
from segtrain.engine.run_directory import RunDirectory, check_output, write_json
from segtrain.errors import DataError
from segtrain.load import LoadedModel, build_criterion, load_model
from segtrain.options import read_options
from segtrain.report.examples import draw_examples
from segtrain.report.pictures import save_picture

log = logging.getLogger("segtrain")

OWN_KEYS = ("checkpoint", "weights", "output", "trust", "debug")


@dataclass(frozen=True)
class EvaluateOptions:
    """The command's own keys; `configs/evaluate.yaml` says what each does."""

    checkpoint: str
    weights: Literal["average", "raw"]
    output: str | None
    trust: list[str]
    debug: bool

    @property
    def folder(self) -> Path:
        """Where the user said, else the run's folder: the one above `checkpoints/`."""
        if self.output is not None:
            return Path(self.output)
        folder = Path(self.checkpoint).resolve().parent
        return folder.parent if folder.name == "checkpoints" else folder


def run(argv: Sequence[str]) -> int:
    return compose.run_command("evaluate", argv, task, own_keys=OWN_KEYS)


def task(job: Job) -> None:
    with logged_to_terminal():
        _evaluate(job)


def _evaluate(job: Job) -> None:
    folder = read_options(job.config, EvaluateOptions).folder
    check_output(folder)
    loaded = load_model(job, "data", "augment.evaluate", "loss", "inference", "trainer")
    builder, facts = loaded.builder, loaded.facts
    options = builder.trainer_options()
    dataset, split = open_split(loaded)
    criterion = build_criterion(builder, facts, loaded.contents, loaded.path, None, loaded.predictor.model)
    criterion = criterion.to(loaded.hardware.device)
    try_criterion(criterion, facts, loaded.hardware.device)
    batches = eval_loader(dataset, builder.loader_options(), loaded.hardware.device.type == "cuda")
    with evaluation_fits():
        evaluation = evaluate(loaded.predictor, criterion, batches, facts, len(dataset), options.pictures)
    assert evaluation is not None
    _report(folder, loaded, evaluation, split)


def open_split(loaded: LoadedModel) -> tuple[LabelledDataset, str]:
    """The data set to measure a checkpoint on, as evaluation sees it, and the name of its split.

    Raises:
        DataError: it is not there, or has other classes than the checkpoint.
    """
    builder, facts = loaded.builder, loaded.facts
    split = builder.data_options().val_split
    dataset = builder.dataset(split)
    if dataset.class_names != facts.class_names:
        raise DataError(
            f"the data's {_listed(dataset.class_names)} are not the checkpoint's {_listed(facts.class_names)}; "
            "choose the data it was trained on, or map labels to its classes by data.labels"
        )
    return dataset.with_transform(builder.augmentation("evaluate", facts.ignore_index), 0), split


def _listed(classes: Sequence[str]) -> str:
    return f"{len(classes)} classes ({', '.join(classes[:4])}{', ...' if len(classes) > 4 else ''})"


def _report(path: Path, loaded: LoadedModel, evaluation: Evaluation, split: str) -> None:
    facts, step = loaded.facts, loaded.contents["state"]["step"]
    folder = RunDirectory(path)
    folder.path.mkdir(parents=True, exist_ok=True)
    where: dict[str, Any] = {"step": step, "checkpoint": str(loaded.path), "split": split}
    write_json(folder.results, where | evaluation.results(facts))
    print(evaluation.table(facts))
    log.info(
        "%d images of split %s, checkpoint of step %d, loss %.4f",
        evaluation.images,
        split,
        step,
        evaluation.loss["loss"],
    )
    log.info("results: %s", folder.results)
    if evaluation.examples:
        folder.pictures.mkdir(exist_ok=True)
        picture = folder.pictures / f"{split}_step_{step:07d}.png"
        save_picture(picture, draw_examples(evaluation.examples, facts))
        log.info("picture: %s", picture)
