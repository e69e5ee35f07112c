"""`segtrain export`: a checkpoint's model as a file that runs without segtrain, compared with the checkpoint."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from omegaconf import OmegaConf
from torch import Tensor, nn

from segtrain import compose
from segtrain.build import saved_facts
from segtrain.compose import Job
from segtrain.data.dataset import LabelledDataset
from segtrain.data.loader import EvalLoader, eval_loader
from segtrain.engine import checkpoint, stripped
from segtrain.engine.logger import logged_to_terminal
from segtrain.engine.memory import evaluation_fits
from segtrain.errors import CheckpointError, ConfigError, DataError
from segtrain.export.agreement import Labels, compare, failing_sizes
from segtrain.export.described import SUFFIXES, Format, Interface, Outputs, describe, format_of
from segtrain.export.graph import ExportedGraph
from segtrain.export.reading import ExportedModel, read
from segtrain.export.writing import to_bytes
from segtrain.inference import Predictor, WholeImage
from segtrain.load import LoadedModel, load_model, open_split
from segtrain.options import read_options
from segtrain.saved_config import apply_overrides
from segtrain.types import Shard

log = logging.getLogger("segtrain")

OWN_KEYS = (
    *("checkpoint", "weights", "format", "output", "overwrite", "normalize", "outputs", "size", "opset"),
    *("check", "images", "min_agreement", "trust", "debug"),
)
FLOAT32 = (("trainer.device", "cpu"), ("trainer.precision", "fp32"), ("trainer.channels_last", False))


@dataclass(frozen=True)
class ExportOptions:
    """The command's own keys; `configs/export.yaml` says what each does."""

    checkpoint: str
    format: Format
    output: str | None
    overwrite: bool
    normalize: bool
    outputs: Outputs
    size: list[int] | None
    opset: int
    check: bool
    images: int
    min_agreement: float
    debug: bool

    def __post_init__(self) -> None:
        if self.size is not None and (len(self.size) != 2 or min(self.size) < 1):
            raise ConfigError(f"size={self.size}: give [HEIGHT,WIDTH], or null for any size")
        if self.opset < 18:
            raise ConfigError(
                f"opset={self.opset}: must be 18 or more, from which images of any size are resized right"
            )
        if self.images < 1:
            raise ConfigError(f"images={self.images}: give 1 or more, or set check=false")
        if not 0 <= self.min_agreement <= 1:
            raise ConfigError(f"min_agreement={self.min_agreement} is outside [0, 1]; 0.999 is the default")

    @property
    def target(self) -> Path:
        """The file to write."""
        suffix = SUFFIXES[self.format]
        return Path(self.output) if self.output is not None else Path(self.checkpoint).with_suffix(suffix)

    @property
    def interface(self) -> Interface:
        size = None if self.size is None else (self.size[0], self.size[1])
        return Interface(self.normalize, self.outputs, size)


def run(argv: Sequence[str]) -> int:
    return compose.run_command("export", argv, task, own_keys=OWN_KEYS)


def task(job: Job) -> None:
    with logged_to_terminal():
        _export(job)


def _export(job: Job) -> None:
    options = read_options(job.config, ExportOptions)
    _check_target(options)
    loaded = _load(job)
    dataset = _pictures(loaded) if options.check else None
    target, interface, facts = options.target, options.interface, loaded.facts
    normalize = loaded.predictor.normalize if options.normalize else None
    graph = ExportedGraph(loaded.predictor.model, normalize, options.outputs, facts.threshold).eval()
    metadata = describe(facts, interface, _what_evaluation_needs(loaded, job))
    data = to_bytes(graph, options.format, facts.in_channels, interface.size, metadata, options.opset)
    checkpoint.save_bytes(data, target)
    log.info("written: %s, %.1f MiB, %s, %s", target, len(data) / 2**20, _takes(interface), _gives(interface))
    exported = read(target.read_bytes(), target, torch.device("cpu"), trusted=("pickle",)).model
    try_sizes(loaded, exported, options)
    if dataset is not None:
        check(loaded, exported, dataset, options)


def _load(job: Job) -> LoadedModel:
    """The checkpoint's model in float32 on the CPU, of which any machine's numbers are near."""
    if format_of(Path(job.config.checkpoint)) is not None:
        raise ConfigError(f"checkpoint={job.config.checkpoint} is exported already; name the file it was made from")
    for key, value in job.saved_overrides:
        if key.lstrip("+") in dict(FLOAT32):
            raise ConfigError(f"{key}={value}: models are exported in float32 from the CPU; leave it out")
    quiet = replace(job, saved_overrides=(*job.saved_overrides, *FLOAT32))
    return load_model(quiet, "data", "augment.evaluate", "loss", "inference", "trainer")


def _what_evaluation_needs(loaded: LoadedModel, job: Job) -> str:
    """The checkpoint's config with the command's overrides on top, facts, and the states of run and loss, as a text."""
    config, _ = apply_overrides(loaded.contents["config"], job)
    contents = loaded.contents | {
        "config": OmegaConf.to_container(config, resolve=False),
        "choices": loaded.choices,
        "facts": saved_facts(loaded.facts),
    }
    return stripped.plain_text(contents, loaded.path)


def _check_target(options: ExportOptions) -> None:
    target, suffix = options.target, SUFFIXES[options.format]
    if target.suffix != suffix:
        raise ConfigError(f"output={target}: a file of format={options.format} ends in {suffix}")
    if target.is_dir() or not target.parent.is_dir():
        raise ConfigError(f"output={target}: name a file in a folder that exists")
    if target.exists() and not options.overwrite:
        raise ConfigError(f"{target} exists; name another file by output=, or set overwrite=true")


def _pictures(loaded: LoadedModel) -> LabelledDataset:
    """The validation set, before anything is written. Raises DataError where it is not there."""
    try:
        return open_split(loaded)[0]
    except DataError as error:
        raise DataError(f"{error}; or set check=false to export without comparing") from error


def try_sizes(loaded: LoadedModel, exported: ExportedModel, options: ExportOptions) -> None:
    """Raises CheckpointError, unless allowed, where the file does not hold for images of any number and size."""
    if options.size is not None:
        return
    whole = Predictor(loaded.predictor.model, loaded.predictor.normalize, WholeImage(1.0), loaded.hardware)
    predict = _labels_of(exported, whole, loaded)
    facts = loaded.facts
    failing = failing_sizes(
        lambda images: whole.labels(images, facts.threshold), predict, facts.in_channels, options.min_agreement
    )
    if failing:
        raise CheckpointError(
            f"{options.target}: written, but this model does not export for images of any size: it fails at "
            f"{'; '.join(failing)}; export it with size=[HEIGHT,WIDTH] or another format, or lower min_agreement"
        )


def check(loaded: LoadedModel, exported: ExportedModel, dataset: LabelledDataset, options: ExportOptions) -> None:
    """Prints how far both agree; raises CheckpointError where that is less than `min_agreement`."""
    facts = loaded.facts
    predictor = loaded.predictor
    if options.outputs == "labels":  # of which a strategy can make nothing
        predictor = Predictor(predictor.model, predictor.normalize, WholeImage(1.0), predictor.hardware)
    batches, num_images = _spread(loaded, dataset, options.images)
    with evaluation_fits():
        agreement = compare(
            lambda images: predictor.labels(images, facts.threshold),
            _labels_of(exported, predictor, loaded),
            batches,
            facts,
            num_images,
        )
    print(agreement.table())
    if agreement.share < options.min_agreement:
        raise CheckpointError(
            f"{options.target}: written, but {100 * agreement.share:.4f} % of pixels agree with {loaded.path}, fewer "
            f"than min_agreement={options.min_agreement}; do not use it, or allow it by a lower min_agreement"
        )


def _labels_of(exported: ExportedModel, like: Predictor, loaded: LoadedModel) -> Labels:
    """uint8 images -> the exported model's label maps, by the strategy of `like` where it gives scores."""
    normalize = nn.Identity() if exported.interface.normalize else like.normalize

    def labels(images: Tensor) -> Tensor:
        return exported.answer(normalize(images))

    if exported.interface.outputs == "labels":
        return labels
    predictor = Predictor(exported, normalize, like.strategy, like.hardware)
    return lambda images: predictor.labels(images, loaded.facts.threshold)


def _spread(loaded: LoadedModel, dataset: LabelledDataset, most: int) -> tuple[EvalLoader, int]:
    """Batches of at most `most` images, every n-th of the set."""
    every = -(-len(dataset) // most)
    loader = eval_loader(dataset, loaded.builder.loader_options(), False, Shard(0, every))
    return loader, len(range(0, len(dataset), every))


def _takes(interface: Interface) -> str:
    size = "any size" if interface.size is None else "x".join(map(str, interface.size))
    return f"takes {'uint8' if interface.normalize else 'normalised float32'} images of {size}"


def _gives(interface: Interface) -> str:
    return f"gives {interface.outputs}"
