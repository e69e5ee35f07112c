"""Batches from a data set, read by worker processes, the same for any number of them."""

from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch.utils.data import DataLoader

from segtrain.data.board import Board
from segtrain.data.fetching import Fetch, Substitutes
from segtrain.data.sampler import TrainBatchSampler, substitutes
from segtrain.data.skipping import SkippedItems
from segtrain.data.workers import POLL, receive, start_worker
from segtrain.errors import ConfigError, DataError
from segtrain.types import WHOLE, Batch, SegmentationDataset, Shard


@dataclass(frozen=True)
class LoaderOptions:
    """How batches are made.

    Attributes:
        batch_size: samples in a training batch, of each process where several train together.
        eval_batch_size: the most samples in an evaluation batch; only samples of equal size share one.
        workers: processes that read and augment; 0 reads in the training process.
        drop_last: leave out an epoch's last, short batch, instead of filling it from the next epoch.
        timeout: seconds that a batch may take to arrive from the workers; 0 waits for ever.
        on_error: what becomes of a sample that raises a `DataError`. raise: so does the loader. skip: in training
            another one takes its place, see `substitutes`; in evaluation it is left out.
        max_skipped: with skip, the most items that may be unreadable, counted for each loader.
    """

    batch_size: int
    eval_batch_size: int
    workers: int
    drop_last: bool
    timeout: float
    on_error: Literal["raise", "skip"]
    max_skipped: int

    def __post_init__(self) -> None:
        smallest = {"batch_size": 1, "eval_batch_size": 1, "workers": 0, "timeout": 0, "max_skipped": 0}
        for name, least in smallest.items():
            if getattr(self, name) < least:
                raise ConfigError(f"data.{name}={getattr(self, name)}: give {least} or more")

    def skipped_items(self, dataset: SegmentationDataset) -> SkippedItems:
        """To note what of `dataset` is skipped."""
        return SkippedItems(self.max_skipped, lambda index: dataset.names()[index])


@dataclass(frozen=True)
class _Source:
    """Batches of the items that `batches` names, as lists of stacks of equal size; every `iter` reads anew."""

    dataset: SegmentationDataset
    options: LoaderOptions
    batches: Iterable[list[tuple[int, int]]]
    substitutes: Substitutes
    pin_memory: bool
    skipped: SkippedItems

    @property
    def size(self) -> int:
        return len(self.dataset)

    def __iter__(self) -> Generator[list[Batch]]:
        options = self.options
        board = Board(options.workers)
        fetch = Fetch(
            self.dataset, board, self.substitutes if options.on_error == "skip" else None, options.max_skipped
        )
        loader = DataLoader(
            fetch,
            batch_sampler=self.batches,
            num_workers=options.workers,
            collate_fn=_as_it_is,
            pin_memory=self.pin_memory,
            timeout=min(options.timeout or POLL, POLL) if options.workers else 0,  # torch refuses one without workers
            worker_init_fn=partial(start_worker, board),
            generator=torch.Generator().manual_seed(0),  # else creating an iterator would advance the global one
        )
        with closing(receive(loader, board, self.dataset.describe, options.timeout)) as received:
            for fetched in received:
                for index, reason in fetched.skipped:
                    self.skipped.add(index, reason)
                if fetched.failure is not None:
                    raise fetched.failure.exception()
                yield [Batch(images, labels, tuple(names)) for images, labels, names in fetched.groups]


class TrainLoader:
    """Endless batches of one size each; every `iter` begins at `start_batch` again.

    Attributes:
        batches_per_epoch: see `TrainBatchSampler`.
        skipped: what could not be read so far.
    """

    def __init__(self, source: _Source, batches_per_epoch: int) -> None:
        self._source = source
        self.batches_per_epoch = batches_per_epoch
        self.skipped = source.skipped

    def __iter__(self) -> Iterator[Batch]:
        with closing(iter(self._source)) as received:
            for groups in received:
                if len(groups) > 1:
                    raise DataError(_unequal(groups))
                if not groups:
                    raise DataError(
                        f"none of the training data's {self._source.size} samples can be read; the log says why"
                    )
                yield groups[0]


class EvalLoader:
    """Every item once and in order, as lists of batches; an item of another size begins a new batch in the list.

    A list is empty where none of its items can be read and `data.on_error` is skip.

    Attributes:
        skipped: what could not be read so far.
    """

    def __init__(self, source: _Source, num_lists: int, shared: bool) -> None:
        self._source = source
        self._num_lists = num_lists
        self._shared = shared  # with other processes, which may have found something to read
        self.skipped = source.skipped

    def __len__(self) -> int:
        return self._num_lists

    def __iter__(self) -> Iterator[list[Batch]]:
        images = 0
        with closing(iter(self._source)) as received:
            for batches in received:
                images += sum(len(batch.names) for batch in batches)
                yield batches
        if images == 0 and not self._shared:
            raise DataError(f"none of the {self._source.size} evaluation samples can be read; the log says why")


def train_loader(
    dataset: SegmentationDataset,
    options: LoaderOptions,
    seed: int,
    start_batch: int,
    pin_memory: bool,
    shard: Shard = WHOLE,
    overfit_batches: int | None = None,
) -> TrainLoader:
    """Training batches from number `start_batch` on; no global random state is read or advanced.

    Args:
        dataset: with its training transform.
        options: see `LoaderOptions`.
        seed: of the items' order; their augmentation has the data set's own seed.
        start_batch: batches already trained on, 0 in a new run.
        pin_memory: into page-locked memory, for a CUDA device.
        shard: the process among those that train together, see `TrainBatchSampler`.
        overfit_batches: only ever the first so many batches, see `TrainBatchSampler`.

    Raises:
        ConfigError: `overfit_batches` is larger than an epoch.
        DataError: here, if no batch can be made; while iterating, a sample that cannot be read, with the same text out
            of a worker, or more of them than may be skipped, or samples of unequal size in one batch.
        MachineError: while iterating: a worker died or hangs, or the machine lacks memory for them.
        RuntimeError: while iterating, whatever else reading a sample raises, with the sample in its text.
    """
    sampler = TrainBatchSampler(
        len(dataset), options.batch_size, seed, options.drop_last, start_batch, shard, overfit_batches
    )
    others = partial(substitutes, len(dataset), seed)
    source = _Source(dataset, options, sampler, others, pin_memory, options.skipped_items(dataset))
    return TrainLoader(source, sampler.batches_per_epoch)


def eval_loader(
    dataset: SegmentationDataset, options: LoaderOptions, pin_memory: bool, shard: Shard = WHOLE
) -> EvalLoader:
    """Evaluation batches in the order of the data set; see `train_loader` for the arguments and what is raised.

    Of several processes each reads every `shard.size`-th item, from its rank on, so that every item is read exactly
    once; a process beyond the number of items reads none.
    """
    if len(dataset) == 0:
        raise DataError("the evaluation data set is empty; check data.root and data.val_split")
    keys = [(0, index) for index in range(shard.rank, len(dataset), shard.size)]
    batches = [keys[i : i + options.eval_batch_size] for i in range(0, len(keys), options.eval_batch_size)]
    source = _Source(dataset, options, batches, _none, pin_memory, options.skipped_items(dataset))
    return EvalLoader(source, len(batches), shared=shard != WHOLE)


def _none(epoch: int, index: int) -> tuple[()]:
    """Of `Substitutes`: an item that cannot be read is left out."""
    return ()


def _unequal(groups: list[Batch]) -> str:
    sizes = [f"{group.names[0]} is {group.images.shape[2]}x{group.images.shape[3]}" for group in groups[:2]]
    return (
        f"samples of one training batch differ in size: {', '.join(sizes)} (height x width); crop them to one "
        "(augment=standard augment.crop_size=[HEIGHT,WIDTH]) or set data.batch_size=1"
    )


def _as_it_is(fetched: Any) -> Any:
    return fetched
