"""`segtrain convert`: weights of a whole model, from another framework's names into ours."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from segtrain import compose
from segtrain.build import Builder
from segtrain.compose import Job
from segtrain.engine import checkpoint
from segtrain.errors import ConfigError
from segtrain.models.base import SegmentationModel
from segtrain.models.pretrained import Translation, check_match, read_model_weights
from segtrain.options import read_options
from segtrain.types import DataFacts


@dataclass(frozen=True)
class ConvertOptions:
    """The keys of `configs/convert.yaml` beside the model."""

    output: str
    num_classes: int
    in_channels: int
    overwrite: bool
    debug: bool

    def __post_init__(self) -> None:
        for key in ("num_classes", "in_channels"):
            if getattr(self, key) < 1:
                raise ConfigError(f"{key}={getattr(self, key)} must be 1 or more")
        path = Path(self.output)
        if path.is_dir() or not path.parent.is_dir():
            raise ConfigError(f"output={path}: name a file in a folder that exists")
        if path.exists() and not self.overwrite:
            raise ConfigError(f"output={path}: exists; name another file, or set overwrite=true")


def run(argv: Sequence[str]) -> int:
    return compose.run_command("convert", argv, task)


def task(job: Job) -> None:
    """Prints what matched, and writes it."""
    options = read_options(job.config, ConvertOptions)
    builder = Builder(job.config)
    builder.check("model")
    wanted = builder.model_options()
    if wanted.weights is None:
        raise ConfigError("model.weights has no value: set model.weights=FILE, what is to be converted")
    model = builder.model(DataFacts.of(options.num_classes, options.in_channels), pretrained=False)
    if not isinstance(model, SegmentationModel):
        raise ConfigError(f"model: {type(model).__name__} is no segtrain.models.base.SegmentationModel")
    found = read_model_weights(model, wanted.weights, wanted.weights_key, wanted.weights_prefix)
    print(_report(found))
    check_match(found, wanted.weights_strict)
    checkpoint.save({"model": found.match.fitting}, Path(options.output))
    print(f"written: {options.output}; load it with model.weights={options.output}")


def _report(found: Translation) -> str:
    """What matched, and every name that did not."""
    match = found.match
    lines = [f"{found.path}: names of {found.framework}; {match}"]
    for what, names in (
        ("only in the model", match.missing),
        ("only in the file", match.unknown),
        ("of another shape", match.misshapen),
    ):
        lines += [f"  {what}: {name}" for name in names]
    return "\n".join(lines)
