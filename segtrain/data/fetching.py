"""The reading of one batch, in a worker or in the training process: what becomes of samples that cannot be read."""

import traceback
from collections.abc import Callable, Iterable
from itertools import groupby
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info

from segtrain import errors
from segtrain.data.board import Board
from segtrain.data.machine import out_of_memory, shortage
from segtrain.errors import DataError, MachineError, SegtrainError
from segtrain.types import Sample, SegmentationDataset

# Plain values travel between processes, because torch can pin tuples but not a dataclass it does not know.
Parts = tuple[Tensor, Tensor, list[str]]

# (epoch, index) of an item that cannot be read -> the items to try in its place, in turn.
Substitutes = Callable[[int, int], Iterable[int]]


class Failure(NamedTuple):
    """An exception as what can always be sent; some exceptions cannot, and the run would wait for them for ever."""

    kind: type[Exception]
    message: str
    traceback: str

    def exception(self) -> Exception:
        """To be raised; carries the traceback as a note, which travels, unlike a traceback."""
        error = self.kind(self.message)
        error.add_note(f"While a batch was read:\n{self.traceback}")
        return error


class Fetched(NamedTuple):
    """What a worker sends.

    Attributes:
        groups: samples of equal size, stacked.
        skipped: (index, reason) of the items that could not be read and were left out.
        failure: what went wrong; the rest is then empty.
    """

    groups: list[Parts]
    skipped: list[tuple[int, str]]
    failure: Failure | None


class Fetch(Dataset):
    """A data set of whole batches: reads the samples of one, stacks them, and returns a failure instead of raising.

    Args:
        dataset: of samples.
        board: where to note what is being read.
        substitutes: for an item that cannot be read; where they are none it is left out. None: it is a failure.
        max_skipped: more unreadable items than this are not looked for in one batch.
    """

    def __init__(
        self, dataset: SegmentationDataset, board: Board, substitutes: Substitutes | None, max_skipped: int
    ) -> None:
        self.dataset = dataset
        self.board = board
        self.substitutes = substitutes
        self.max_skipped = max_skipped
        self._index = -1  # of the item being read

    def __getitems__(self, keys: list[tuple[int, int]]) -> Fetched:
        fetched = self._fetch(keys)
        worker = get_worker_info()
        if worker is not None:
            self.board.rest(worker.id)  # not where it ends in SystemExit: its last sample is then to blame
        return fetched

    def _fetch(self, keys: list[tuple[int, int]]) -> Fetched:
        skipped: dict[int, str] = {}
        try:
            found = [self._read(key, skipped) for key in keys]
            samples = [sample for sample in found if sample is not None]
            groups = [_stack(list(group)) for _, group in groupby(samples, key=lambda sample: sample.image.shape)]
            if get_worker_info() is not None:
                _share(groups)
        except Exception as error:
            return Fetched([], [], self._failure(error))
        return Fetched(groups, [*skipped.items()], None)

    def _read(self, key: tuple[int, int], skipped: dict[int, str]) -> Sample | None:
        """The sample, or the first readable one of its substitutes; the unreadable ones go into `skipped`.

        None: no substitute is readable, or so many items are not that the run ends anyway.
        """
        try:
            return self._sample(key)
        except DataError as error:
            if self.substitutes is None:
                raise
            skipped[key[1]] = str(error)
        for other in self.substitutes(*key):
            if len(skipped) > self.max_skipped:
                return None
            try:
                return self._sample((key[0], other))
            except DataError as error:
                skipped[other] = str(error)
        return None

    def _sample(self, key: tuple[int, int]) -> Sample:
        worker = get_worker_info()
        if worker is not None:
            self.board.begin(worker.id, key[1])
        self._index = key[1]
        return self.dataset[key]

    def _failure(self, error: Exception) -> Failure:
        what = self.dataset.describe(self._index)
        if isinstance(error, SegtrainError):
            kind, message = _kind(error), str(error)
        elif out_of_memory(error):
            kind = MachineError
            message = f"no memory left to read sample {what} ({error}); lower data.workers or data.batch_size"
        else:
            kind, message = RuntimeError, f"reading sample {what}: {type(error).__name__}: {error}"
        return Failure(kind, message, traceback.format_exc())


def _kind(error: SegtrainError) -> type[Exception]:
    """The nearest class that is our own, and so can be made of a message alone."""
    return next(base for base in type(error).__mro__ if base.__module__ == errors.__name__)


def _stack(samples: list[Sample]) -> Parts:
    images = torch.from_numpy(np.stack([sample.image for sample in samples]))
    labels = torch.from_numpy(np.stack([sample.labels for sample in samples]))
    return images.permute(0, 3, 1, 2).contiguous(), labels, [sample.name for sample in samples]


def _share(groups: list[Parts]) -> None:
    """Into shared memory here, where its lack can be told; the thread that sends batches would only print it.

    Raises:
        MachineError: there is too little.
    """
    try:
        for images, labels, _ in groups:
            images.share_memory_()
            labels.share_memory_()
    except (OSError, RuntimeError) as error:
        raise shortage(error) or error from error
