"""`segtrain crf-search`: parameters of the dense CRF for a model and its data, and what they gain."""

import logging
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from segtrain import compose
from segtrain.compose import Job
from segtrain.data.loader import EvalLoader, eval_loader
from segtrain.data.subset import Subset
from segtrain.engine.crf_grid import Parameters
from segtrain.engine.crf_search import Comparison, KeptScores, Trial, compare, score, search, table
from segtrain.engine.logger import logged_to_terminal
from segtrain.engine.memory import evaluation_fits
from segtrain.engine.run_directory import check_output, write_json
from segtrain.errors import ConfigError
from segtrain.inference.crf import DenseCRF
from segtrain.load import LoadedModel, load_model, open_split
from segtrain.options import MeasuringOptions, read_options

log = logging.getLogger("segtrain")

AXES = ("spatial_weight", "spatial_sigma", "bilateral_weight", "bilateral_sigma_xy", "bilateral_sigma_rgb")


@dataclass(frozen=True)
class SearchOptions(MeasuringOptions):
    """The command's own keys; `configs/crf_search.yaml` says what each does."""

    images: int | None
    rounds: int
    iterations: int
    spatial_weight: list[float]
    spatial_sigma: list[float]
    bilateral_weight: list[float]
    bilateral_sigma_xy: list[float]
    bilateral_sigma_rgb: list[float]

    def __post_init__(self) -> None:
        for name, least in (("images", 1), ("rounds", 1), ("iterations", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ConfigError(f"{name}={value} must be at least {least}")
        for name, values in self.axes.items():
            if not values or min(values) <= 0:
                raise ConfigError(f"{name}={list(values)}: positive numbers to try are needed, one at least")

    @property
    def axes(self) -> dict[str, list[float]]:
        """Values to try, by the parameter's name."""
        return {name: [float(value) for value in getattr(self, name)] for name in AXES}


OWN_KEYS = ("checkpoint", "weights", "output", "trust", "debug", "images", "rounds", "iterations", *AXES)


def run(argv: Sequence[str]) -> int:
    return compose.run_command("crf_search", argv, task, own_keys=OWN_KEYS)


def task(job: Job) -> None:
    with logged_to_terminal():
        _search(job)


def _search(job: Job) -> None:
    options = read_options(job.config, SearchOptions)
    folder = options.folder if job.number is None else options.folder / f"crf_search_{job.number}"
    check_output(folder)
    loaded = load_model(job, "data", "augment.evaluate", "inference", "trainer")
    predictor, facts, device = loaded.predictor, loaded.facts, loaded.hardware.device
    base = predictor.strategy
    if isinstance(base, DenseCRF):
        raise ConfigError("inference: the CRF comes after the strategy named here; name another, such as whole")

    def make(parameters: Parameters) -> DenseCRF:
        return DenseCRF(base, options.iterations, **parameters, normalization="symmetric")

    dataset, split = open_split(loaded)
    searched = _spread(len(dataset), options.images)
    held_out = sorted(set(range(len(dataset))) - set(searched))
    log.info("%d of %d images of split %s are searched on", len(searched), len(dataset), split)
    folder.mkdir(parents=True, exist_ok=True)

    def batches(indices: Sequence[int]) -> EvalLoader:
        return eval_loader(Subset(dataset, indices), loaded.builder.loader_options(), device.type == "cuda")

    with tempfile.TemporaryDirectory(prefix="scores-", dir=folder) as scores, evaluation_fits():
        kept = KeptScores(Path(scores), facts)
        kept.keep(predictor, batches(searched), len(searched))
        trials = search(kept, make, options.axes, options.rounds, facts, device)
        best = trials[0]
        found = {"searched": Comparison(kept.before, best.matrix, len(kept))}
        if held_out:
            crf = make(best.parameters)
            found["held-out"] = compare(predictor, crf, batches(held_out), facts, len(held_out))
    words = ["inference=crf", *_base_words(loaded), f"inference.iterations={options.iterations}"]
    words += [f"inference.{name}={value:g}" for name, value in best.parameters.items()]
    _report(folder, options.iterations, loaded, split, trials, found, " ".join(words))


def _spread(total: int, wanted: int | None) -> list[int]:
    """Indices of the images to search on, evenly spread: the first ones of a video are all alike."""
    count = min(100, (total + 1) // 2) if wanted is None else wanted
    if count > total:
        raise ConfigError(f"images={count}: the validation set holds {total}")
    return [int(place) for place in np.linspace(0, total - 1, count).round()]


def _base_words(loaded: LoadedModel) -> list[str]:
    """The strategy that the CRF comes after, as overrides: the options chosen, and all their values."""
    words: list[str] = []
    node, group, key = loaded.builder.section("inference"), "inference", "inference"
    while True:
        key += ".base"
        if group in loaded.choices:
            words.append(f"{group.replace('inference', 'inference/base', 1)}={loaded.choices[group]}")
        words += [f"{key}.{name}={_word(value)}" for name, value in node.items() if name not in ("_target_", "base")]
        if not isinstance(node.get("base"), dict):
            return words
        node, group = node["base"], f"{group}/base"


def _word(value: Any) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value).replace(" ", "")


def _report(
    folder: Path,
    iterations: int,
    loaded: LoadedModel,
    split: str,
    trials: Sequence[Trial],
    found: Mapping[str, Comparison],
    overrides: str,
) -> None:
    facts, best = loaded.facts, trials[0]
    path = folder / "crf_search.json"
    results: dict[str, Any] = {
        "step": loaded.contents["state"]["step"],
        "checkpoint": str(loaded.path),
        "split": split,
        "parameters": {"iterations": iterations, **best.parameters},
        "overrides": overrides,
    }
    for title, comparison in found.items():
        results[title.replace("-", "_")] = {
            "images": comparison.images,
            "before": comparison.before.summary(facts.class_names),
            "after": comparison.after.summary(facts.class_names),
        }
    results["trials"] = [{**trial.parameters, "score": _plain(score(trial.matrix, facts))} for trial in trials]
    write_json(path, results)
    print(table(found, facts))
    log.info("%d sets of parameters tried: %s", len(trials), path)
    for title, comparison in found.items():
        if (loss := comparison.loss(title, facts)) is not None:
            log.warning(loss)
    if "held-out" not in found:
        log.warning("no image was held out: what the CRF gains is seen on no other images than it was chosen by")
    print(f"found: {overrides}")


def _plain(value: float) -> float | None:
    return None if value != value else value
