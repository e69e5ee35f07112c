"""`segtrain predict`: label maps for images, at their own resolution."""

import glob
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segtrain import compose
from segtrain.compose import Job
from segtrain.data.augment import Augmentation
from segtrain.data.reading import IMAGE_SUFFIXES, read_image
from segtrain.engine.logger import logged_to_terminal
from segtrain.engine.memory import evaluation_fits
from segtrain.engine.progress import Progress
from segtrain.engine.run_directory import check_output
from segtrain.errors import ConfigError, DataError, nearest
from segtrain.inference import label_map
from segtrain.load import load_model
from segtrain.options import read_options
from segtrain.report.pictures import overlay, save_index_png, save_palette_png, save_picture
from segtrain.types import DataFacts, Sample

log = logging.getLogger("segtrain")

OWN_KEYS = ("checkpoint", "weights", "input", "output", "save", "alpha", "trust", "debug")
Product = Literal["index", "palette", "overlay", "probabilities", "confidence"]


@dataclass(frozen=True)
class PredictOptions:
    """The command's own keys; `configs/predict.yaml` says what each does."""

    checkpoint: str
    weights: Literal["average", "raw"]
    input: str
    output: str
    save: list[str]
    alpha: float
    trust: list[str]
    debug: bool

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1:
            raise ConfigError(f"alpha={self.alpha} is outside [0, 1]: 0 shows the image only, 1 the colours only")


@dataclass(frozen=True)
class Prediction:
    """One image and what the model says of it.

    Attributes:
        image: [H, W, C] uint8.
        labels: [H, W] class indices.
        probabilities: [num_classes, H, W] float32, after softmax.
    """

    image: NDArray[np.uint8]
    labels: NDArray[np.integer]
    probabilities: NDArray[np.float32]


def run(argv: Sequence[str]) -> int:
    return compose.run_command("predict", argv, task, own_keys=OWN_KEYS)


def task(job: Job) -> None:
    with logged_to_terminal():
        _predict(job)


def _predict(job: Job) -> None:
    options = read_options(job.config, PredictOptions)
    products, output = _products(options.save), Path(options.output)
    check_output(output)
    images = find_images(options.input)
    loaded = load_model(job, "augment.evaluate", "inference", "trainer")
    preprocess = loaded.builder.augmentation("evaluate", loaded.facts.ignore_index)
    writers = _writers(loaded.facts, options.alpha)
    bad: list[str] = []
    with Progress("predict", len(images), unit="img", line_every=100) as progress:
        for name, path in images.items():
            try:
                image = read_image(path, loaded.facts.in_channels)
            except DataError as error:
                bad.append(str(error))
                continue
            finally:
                progress.advance()
            with evaluation_fits():
                logits = loaded.predictor.logits(_as_seen_in_evaluation(image, name, preprocess))
            labels = label_map(logits, loaded.facts.threshold)[0].cpu().numpy()
            prediction = Prediction(image, labels, logits[0].softmax(dim=0).cpu().numpy())
            for product in products:
                target = output / product / name
                target.parent.mkdir(parents=True, exist_ok=True)
                writers[product](target, prediction)
    log.info("%d of %d images predicted: %s in %s", len(images) - len(bad), len(images), ", ".join(products), output)
    if bad:
        raise DataError(f"{len(bad)} of {len(images)} images could not be read:\n" + "\n".join(bad))


def _as_seen_in_evaluation(image: NDArray[np.uint8], name: str, preprocess: Augmentation) -> Tensor:
    """[1, C, H, W]: the image after `augment.evaluate`, as the model's scores were measured."""
    height, width = image.shape[:2]
    seen = preprocess(Sample(image, np.zeros((height, width), dtype=np.uint8), name), 0, 0, 0).image
    if seen.shape[:2] != (height, width):
        raise ConfigError(
            f"augment.evaluate turns {name} from {height}x{width} into {seen.shape[0]}x{seen.shape[1]}; a prediction "
            "must have its image's size: leave that transform out, and resize by inference.scale"
        )
    return torch.from_numpy(np.ascontiguousarray(seen.transpose(2, 0, 1)))[None]


def find_images(where: str) -> dict[str, Path]:
    """The images meant by `input=`, each under the name its results get.

    Args:
        where: an image file; a folder, whose images are taken but not its subfolders'; or a glob.

    Returns:
        {path relative to the folder they are all in, without suffix (with it, where two differ in nothing else): file}.

    Raises:
        DataError: there is nothing of that name, or no image in it.
    """
    path = Path(where)
    if path.is_file():
        files = [path]
    elif path.is_dir():
        files = sorted(file for file in path.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES)
        if not files:
            kinds = " ".join(sorted(IMAGE_SUFFIXES))
            raise DataError(
                f"input={where}: no image ({kinds}) in this folder; for subfolders: input='{where}/**/*.jpg'"
            )
    else:
        files = sorted(Path(name) for name in glob.glob(where, recursive=True) if Path(name).is_file())
        if not files:
            raise DataError(f"input={where}: no such file or folder, and no file matches it as a glob")
    root = _common_folder(files)
    names = [file.relative_to(root) for file in files]
    sharing = Counter(name.with_suffix("") for name in names)
    return {
        str(name.with_suffix("") if sharing[name.with_suffix("")] == 1 else name): file
        for name, file in zip(names, files, strict=True)
    }


def _common_folder(files: Sequence[Path]) -> Path:
    folder = files[0].parent
    while not all(file.is_relative_to(folder) for file in files):
        folder = folder.parent
    return folder


def _products(wanted: list[str]) -> list[Product]:
    for name in wanted:
        if name not in get_args(Product):
            known = ", ".join(get_args(Product))
            raise ConfigError(
                f"save={name}: nothing of that name can be saved{nearest(name, get_args(Product))} ({known})"
            )
    if not wanted:
        raise ConfigError(f"save=[] saves nothing; choose from {', '.join(get_args(Product))}")
    return [name for name in get_args(Product) if name in wanted]


def _writers(facts: DataFacts, alpha: float) -> dict[Product, Callable[[Path, Prediction], None]]:
    """How each product is written, given its path without suffix."""
    palette, ignore = facts.palette, facts.ignore_index

    def confidence(path: Path, prediction: Prediction) -> None:
        chosen = np.take_along_axis(prediction.probabilities, prediction.labels[None], axis=0)[0]
        save_index_png(_suffixed(path, ".png"), np.rint(255 * chosen).astype(np.uint8))

    def probabilities(path: Path, prediction: Prediction) -> None:
        np.savez_compressed(
            _suffixed(path, ".npz"),
            probabilities=prediction.probabilities.astype(np.float16),
            class_names=np.array(facts.class_names),
        )

    return {
        "index": lambda path, got: save_index_png(_suffixed(path, ".png"), got.labels),
        "palette": lambda path, got: save_palette_png(_suffixed(path, ".png"), got.labels, palette, ignore),
        "overlay": lambda path, got: save_picture(
            _suffixed(path, ".png"), overlay(got.image, got.labels, palette, ignore, alpha)
        ),
        "probabilities": probabilities,
        "confidence": confidence,
    }


def _suffixed(path: Path, suffix: str) -> Path:
    """`photo.v2` -> `photo.v2.png`; `with_suffix` would cut the name."""
    return path.with_name(path.name + suffix)
