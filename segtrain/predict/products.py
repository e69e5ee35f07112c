"""What is saved of a prediction, and how each product becomes a file."""

import contextlib
import errno
import io
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segtrain.engine.whole_files import whole_file
from segtrain.errors import ConfigError, MachineError, nearest
from segtrain.predict.films import SUFFIX, FilmWriter
from segtrain.report.beliefs import Story, save_story
from segtrain.report.look import Look
from segtrain.report.pictures import Picture, colorize, index_png, palette_png
from segtrain.types import DataFacts

Product = Literal["index", "palette", "overlay", "probabilities", "confidence", "scores", "beliefs"]
FILMED = ("palette", "overlay")  # of a film these are films; of the others each frame is a file
TOLD = ("scores", "beliefs")  # one figure shows both where both are wanted


@dataclass(frozen=True)
class Prediction:
    """One image and what the model says of it, as far as it is going to be saved.

    Attributes:
        image: [H, W, C] uint8.
        labels: [H, W] class indices.
        probabilities: [num_classes, H, W] float16, after softmax; None where not wanted.
        confidence: [H, W] uint8, the probability of the class in `labels`, 255 for 1; None where not wanted.
        story: the figure of scores and beliefs; None where not wanted.
    """

    image: NDArray[np.uint8]
    labels: NDArray[np.integer]
    probabilities: NDArray[np.float16] | None = None
    confidence: NDArray[np.uint8] | None = None
    story: Story | None = None

    @property
    def nbytes(self) -> int:
        parts = (self.image, self.labels, self.probabilities, self.confidence, self.story)
        return sum(part.nbytes for part in parts if part is not None)


@dataclass(frozen=True)
class Places:
    """Which files there are to be.

    Attributes:
        output: folder; each product goes into a subfolder of its own.
        wanted: as `chosen` returns them.
    """

    output: Path
    wanted: Sequence[Product]

    @property
    def folders(self) -> tuple[str, ...]:
        """A name for each file of an image: its product's, or those of the products that share it."""
        told = [product for product in self.wanted if product in TOLD]
        plain = [product for product in self.wanted if product not in TOLD]
        return (*plain, *(["_".join(told)] if told else []))

    def path(self, folder: str, name: str, film: bool = False) -> Path:
        """Of one product's file. `photo.v2` -> `photo.v2.png`; `with_suffix` would cut the name."""
        suffix = SUFFIX if film else ".npz" if folder == "probabilities" else ".png"
        path = self.output / folder / name
        return path.with_name(path.name + suffix)

    def large_path(self, folder: str, name: str) -> Path:
        """Of one product's file of a picture that is predicted in blocks."""
        path = self.output / folder / name
        return path.with_name(path.name + ".tif")

    def are_filled(self, name: str, film: bool) -> bool:
        """Whether an input has all its files already, which are there whole or not at all.

        Of a film that gets a file for every frame it cannot be told.
        """
        if film and any(product not in FILMED for product in self.wanted):
            return False
        if not film and all(self.large_path(folder, name).is_file() for folder in self.folders):
            return True
        return all(self.path(folder, name, film).is_file() for folder in self.folders)


@dataclass(frozen=True)
class Products:
    """Writes what is wanted of a prediction.

    Attributes:
        places: which files.
        facts: class names and colours.
        look: of overlays.
        check: called for every chunk that is written; what it raises ends the writing.
    """

    places: Places
    facts: DataFacts
    look: Look
    check: Callable[[], None] = lambda: None

    def write(self, name: str, prediction: Prediction, without: Sequence[str] = ()) -> None:
        """Writes the files of one image but those in the folders `without`. Raises MachineError where one cannot be."""
        for folder in self.places.folders:
            if folder not in without:
                path = self.places.path(folder, name)
                with writing(path):
                    path.parent.mkdir(parents=True, exist_ok=True)
                    with whole_file(path) as file:
                        self._encode(folder, prediction, _Checked(file, self.check))

    def draw(self, folder: str, got: Prediction, frame: bool = False) -> Picture:
        """[H', W', 3] uint8 of a product that can be filmed; as a `frame`, all of one film have one size."""
        palette, ignore = self.facts.palette, self.facts.ignore_index
        if folder == "palette":
            return colorize(got.labels, palette, ignore)
        return self.look.draw(got.image, got.labels, self.facts.class_names, palette, ignore, all_equal=frame)

    def _encode(self, folder: str, got: Prediction, file: Any) -> None:
        if folder == "index":
            index_png(got.labels).save(file, "PNG")
        elif folder == "palette":
            palette_png(got.labels, self.facts.palette, self.facts.ignore_index).save(file, "PNG")
        elif folder == "overlay":
            Image.fromarray(self.draw("overlay", got)).save(file, "PNG")
        elif folder == "probabilities":
            assert got.probabilities is not None
            names = np.array(self.facts.class_names)
            np.savez_compressed(file, probabilities=got.probabilities, class_names=names)
        elif folder == "confidence":
            assert got.confidence is not None
            index_png(got.confidence).save(file, "PNG")
        else:
            assert got.story is not None
            save_story(file, got.story, self.facts)


class FilmProducts:
    """The products of one film: films of their own, and a file per frame, `<film>/000000.png`, of the others."""

    def __init__(self, products: Products, name: str, rate: float) -> None:
        self.products, self.name = products, name
        self.films = {
            folder: FilmWriter(products.places.path(folder, name, film=True), rate)
            for folder in products.places.folders
            if folder in FILMED
        }

    def write(self, prediction: Prediction, number: int) -> None:
        """Frame `number`; its frames in their order. Raises MachineError where a file cannot be written."""
        for folder, film in self.films.items():
            with writing(film.path):
                film.write(self.products.draw(folder, prediction, frame=True), number)
        self.products.write(f"{self.name}/{number:06d}", prediction, without=FILMED)

    def finish(self) -> None:
        """Gives the films their names. Raises MachineError where one is not whole."""
        for film in self.films.values():
            with writing(film.path):
                film.finish()

    def abandon(self) -> None:
        """Removes the films that are not finished; frames that are files stay."""
        for film in self.films.values():
            film.abandon()


def chosen(wanted: Sequence[str]) -> list[Product]:
    """`save=` as products, in the order of `Product`. Raises ConfigError where one is none, or there is none."""
    known = get_args(Product)
    for name in wanted:
        if name not in known:
            raise ConfigError(
                f"save={name}: nothing of that name can be saved{nearest(name, known)} ({', '.join(known)})"
            )
    if not wanted:
        raise ConfigError(f"save=[] saves nothing; choose from {', '.join(known)}")
    return [name for name in known if name in wanted]


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Raises MachineError, which names the file and the remedy, where the block cannot write it."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            there = next(folder for folder in path.parents if folder.exists())
            reason += (
                f": {shutil.disk_usage(there).free:,} bytes are free; free some space, and go on by overwrite=false"
            )
        raise MachineError(f"{path}: cannot be written: {reason}") from error


class _Checked(io.RawIOBase):
    """A file whose every write is preceded by a look at whether to go on: encoders write as they go."""

    def __init__(self, file: BinaryIO, check: Callable[[], None]) -> None:
        super().__init__()
        self._file, self._check = file, check

    def write(self, data: Any) -> int:
        self._check()
        return self._file.write(data)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def seekable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True
