"""The way from inputs to files: one thread reads, this one asks the model, some write."""

import dataclasses
import functools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from segtrain.data.reading import read_image
from segtrain.engine.progress import Progress
from segtrain.errors import DataError
from segtrain.predict.answer import Questions
from segtrain.predict.films import FilmReader
from segtrain.predict.inputs import Input
from segtrain.predict.overlap import Overlap
from segtrain.predict.products import TOLD, FilmProducts, Products
from segtrain.types import DataFacts

Prepare = Callable[
    [NDArray[np.uint8], str], Tensor
]  # [H, W, C] and its name -> [1, C, H, W], as the model is to see it


@dataclass(frozen=True)
class Picture:
    """An image that was read.

    Attributes:
        input: where it comes from.
        image: [H, W, C] uint8.
        seen: [1, C, H, W] uint8, as the model is to see it.
        frame: of a film: its number, and the film's frames per second.
    """

    input: Input
    image: NDArray[np.uint8]
    seen: Tensor
    frame: tuple[int, float] | None = None

    @property
    def nbytes(self) -> int:
        return self.image.nbytes + self.seen.nbytes


@dataclass(frozen=True)
class End:
    """An input was read to its end, or could not be.

    Attributes:
        input: which.
        problem: why no more of it could be read; None where all of it was.
    """

    input: Input
    problem: str | None = None
    nbytes: int = 0


def read_all(
    inputs: Sequence[Input], facts: DataFacts, prepare: Prepare, max_frames: int | None
) -> Iterator[Picture | End]:
    """Every picture and every frame, in order, and the end of each input.

    An input that is not one image in memory would be handed out here as what it is, for `predict_all` to look after.
    """
    for source in inputs:
        try:
            if isinstance(source.source, int) or source.is_film:
                reader = FilmReader(source.source, facts.in_channels)
                for number, image in reader.frames(max_frames):
                    yield Picture(source, image, prepare(image, str(source)), (number, reader.rate))
            else:
                image = read_image(source.source, facts.in_channels, facts.value_range)
                yield Picture(source, image, prepare(image, str(source)))
            yield End(source)
        except DataError as error:
            yield End(source, str(error))


@dataclass
class Outcome:
    """What came of it.

    Attributes:
        pictures: images and frames that were predicted.
        problems: why an input was not, or not to its end, a line each.
        seconds: from the first picture to the last file.
    """

    pictures: int = 0
    problems: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def rate(self) -> float:
        """Pictures per second."""
        return self.pictures / max(self.seconds, 1e-9)


@dataclass(frozen=True)
class Pace:
    """How far reading and writing may be from the model.

    Attributes:
        prefetch: pictures that are read and wait for the model, and that wait for a file or are being written.
        size: likewise in bytes, of which one picture alone may have more.
        writers: threads that write pictures.
    """

    prefetch: int
    size: int
    writers: int


def predict_all(
    pictures: Iterator[Picture | End], questions: Questions, products: Products, pace: Pace, progress: Progress
) -> Outcome:
    """Predicts and writes all of `pictures`; results are the same as one after the other.

    An input that cannot be read is noted, and the others are done. Anything else that goes wrong, in whichever thread,
    ends all of them: no file is left half written. What a camera showed until Ctrl-C is kept.

    Raises:
        MachineError: a file cannot be written, or the memory does not suffice.
    """
    outcome, began = Outcome(), time.perf_counter()
    films: dict[Input, FilmProducts] = {}
    # matplotlib does not let several threads draw at once.
    one_by_one = any(product in TOLD for product in products.places.wanted)
    try:
        with Overlap(pace.prefetch, pace.size, pace.writers) as overlap:
            products = dataclasses.replace(products, check=overlap.check)
            for item in overlap.ahead(pictures, lambda item: item.nbytes):
                source = item.input
                if isinstance(item, End):
                    if item.problem is not None:
                        outcome.problems.append(item.problem)
                    if source in films:
                        overlap.behind(films[source].finish, 0, in_order=True)
                    elif not source.is_film:
                        progress.advance()
                    continue
                prediction = questions.ask(item.image, item.seen)
                outcome.pictures += 1
                if item.frame is None:
                    write = functools.partial(products.write, source.name, prediction)
                    overlap.behind(write, prediction.nbytes, in_order=one_by_one)
                    continue
                number, rate = item.frame
                if source not in films:
                    films[source] = FilmProducts(products, source.name, rate)
                write = functools.partial(films[source].write, prediction, number)
                overlap.behind(write, prediction.nbytes, in_order=True)
                progress.advance()
    except KeyboardInterrupt:
        for source, film in films.items():
            if isinstance(source.source, int):
                film.finish()
        raise
    finally:
        for film in films.values():
            film.abandon()
    outcome.seconds = time.perf_counter() - began
    return outcome
