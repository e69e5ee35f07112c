"""`segtrain predict`: label maps for pictures and films, at their own resolution."""

import functools
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from omegaconf import OmegaConf
from torch import Tensor

from segtrain import compose
from segtrain.compose import Job
from segtrain.data.augment import Augmentation
from segtrain.distributed.interrupt import ended_by_signals
from segtrain.engine.logger import logged_to_terminal
from segtrain.engine.memory import prediction_fits
from segtrain.engine.progress import Progress
from segtrain.engine.run_directory import check_output
from segtrain.errors import ConfigError, DataError
from segtrain.load import LoadedModel, load_model
from segtrain.options import read_options
from segtrain.predict.answer import Questions
from segtrain.predict.films import length_of
from segtrain.predict.inputs import STDIN, Input, find_inputs
from segtrain.predict.large import LargePicture, check_large, is_large, predict_large
from segtrain.predict.pipeline import Pace, Prepare, predict_all, read_all
from segtrain.predict.products import Places, Products, chosen
from segtrain.report.look import Look
from segtrain.types import Sample

log = logging.getLogger("segtrain")

OWN_KEYS = (
    *("checkpoint", "weights", "input", "output", "save", "overwrite", "max_frames"),
    *("alpha", "contours", "side_by_side", "legend", "figure_classes", "prefetch", "writers", "trust", "debug"),
)
IN_FLIGHT = 2**29  # bytes of pictures that wait for the model, and of those that wait for a file; configs/predict.yaml


@dataclass(frozen=True)
class PredictOptions:
    """The command's own keys; `configs/predict.yaml` says what each does."""

    checkpoint: str
    weights: Literal["average", "raw"]
    input: str | int | list[str]
    output: str
    save: list[str]
    overwrite: bool
    max_frames: int | None
    alpha: float
    contours: bool
    side_by_side: bool
    legend: bool
    figure_classes: int
    prefetch: int
    writers: int
    trust: list[str]
    debug: bool

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1:
            raise ConfigError(f"alpha={self.alpha} is outside [0, 1]: 0 shows the image only, 1 the colours only")
        for name in ("max_frames", "figure_classes", "prefetch", "writers"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name}={value}: give 1 or more")


def run(argv: Sequence[str]) -> int:
    return compose.run_command("predict", _stdin_as_input(argv), task, own_keys=OWN_KEYS)


def task(job: Job) -> None:
    with logged_to_terminal(), ended_by_signals():
        _predict(job)


def _predict(job: Job) -> None:
    options = read_options(job.config, PredictOptions)
    places = Places(Path(options.output), chosen(options.save))
    check_output(places.output)
    inputs = find_inputs(options.input)
    left = inputs if options.overwrite else [one for one in inputs if not places.are_filled(one.name, one.is_film)]
    if len(left) < len(inputs):
        log.info("%d of %d have their files already (overwrite=false)", len(inputs) - len(left), len(inputs))
    if not left:
        return
    loaded = load_model(job, "augment.evaluate", "inference", "trainer")
    facts = loaded.facts
    _check_palette(places, facts.num_classes)
    look = Look(options.alpha, options.contours, options.side_by_side, options.legend)
    questions = Questions(loaded.predictor, places.wanted, facts.threshold, options.figure_classes)
    prepare = functools.partial(_as_seen_in_evaluation, loaded.builder.augmentation("evaluate", facts.ignore_index))
    large = [one for one in left if not one.is_film and is_large(Path(str(one.source)), loaded.predictor, facts)]
    small = [one for one in left if one not in large]
    if large:
        check_large(places, look, facts)
    pictures = read_all(small, facts, prepare, options.max_frames)
    pace = Pace(options.prefetch, _in_flight(loaded), options.writers)
    unit = "frame" if any(one.is_film for one in left) else "img"
    with Progress("predict", _total(small, options.max_frames), unit=unit, line_every=100, pace=True) as progress:
        outcome = predict_all(pictures, questions, Products(places, facts, look), pace, progress)
    problems = outcome.problems + _predict_large(large, loaded, places, look, prepare, options)
    what = "images" if unit == "img" else "inputs"
    log.info(
        "%d of %d %s predicted%s%s: %s in %s",
        *(len(left) - len(problems), len(left), what),
        "" if unit == "img" else f", {outcome.pictures} images or frames",
        f", {outcome.rate:.3g} {'images' if unit == 'img' else 'frames'}/s" if small else "",
        *(", ".join(places.wanted), places.output),
    )
    if problems:
        raise DataError(f"{len(problems)} of {len(left)} {what} could not be read:\n" + "\n".join(problems))


def _in_flight(loaded: LoadedModel) -> int:
    """Bytes of pictures that may wait on each side of the model."""
    memory = getattr(loaded.predictor.strategy, "memory", None)
    return IN_FLIGHT if memory is None else min(IN_FLIGHT, memory // 8)


def _predict_large(
    inputs: Sequence[Input],
    loaded: LoadedModel,
    places: Places,
    look: Look,
    prepare: Prepare,
    options: PredictOptions,
) -> list[str]:
    """Predicts pictures in blocks, one after the other; what is wrong with those that could not be."""
    problems = []
    stat, config = loaded.path.stat(), loaded.builder.config
    identity = {
        "checkpoint": [str(loaded.path.resolve()), stat.st_size, stat.st_mtime_ns, options.weights],
        "hardware": str(loaded.hardware),
        "config": [OmegaConf.to_yaml(OmegaConf.select(config, key)) for key in ("model", "augment.evaluate")],
    }
    for one in inputs:
        picture = LargePicture(
            path=Path(str(one.source)),
            name=one.name,
            places=places,
            look=look,
            predictor=loaded.predictor,
            facts=loaded.facts,
            prepare=prepare,
            identity=identity,
        )
        try:
            with prediction_fits():
                predict_large(picture)
        except DataError as error:
            problems.append(str(error))
    return problems


def _stdin_as_input(argv: Sequence[str]) -> list[str]:
    """`--stdin` is `input=-` in another spelling, that of programs that read lists of files."""
    if "--stdin" not in argv:
        return list(argv)
    given = next((word for word in argv if word.startswith("input=")), None)
    if given is not None:
        raise ConfigError(f"--stdin and {given} both say what to predict; leave one out")
    return [f"input={STDIN}" if word == "--stdin" else word for word in argv]


def _as_seen_in_evaluation(preprocess: Augmentation, image: NDArray[np.uint8], name: str) -> Tensor:
    """[1, C, H, W]: the image after `augment.evaluate`, as the model's scores were measured."""
    height, width = image.shape[:2]
    seen = preprocess(Sample(image, np.zeros((height, width), dtype=np.uint8), name), 0, 0, 0).image
    if seen.shape[:2] != (height, width):
        raise ConfigError(
            f"augment.evaluate turns {name} from {height}x{width} into {seen.shape[0]}x{seen.shape[1]}; a prediction "
            "must have its image's size: leave that transform out, and resize by inference.scale"
        )
    return torch.from_numpy(np.ascontiguousarray(seen.transpose(2, 0, 1)))[None]


def _check_palette(places: Places, num_classes: int) -> None:
    if "palette" in places.wanted and num_classes > 256:
        raise ConfigError(
            f"save=palette: a palette has 256 colours, the model {num_classes} classes; save=[index,overlay]"
        )


def _total(inputs: Sequence[Input], max_frames: int | None) -> int | None:
    """How many images and frames there are; None where nobody knows."""
    counts = [
        1 if not one.is_film else None if isinstance(one.source, int) else length_of(one.source) for one in inputs
    ]
    if max_frames is not None:
        counts = [max_frames if count is None else min(count, max_frames) for count in counts]
    return None if None in counts else sum(count or 0 for count in counts)
