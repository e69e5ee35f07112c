"""Batches from a data set, read by worker processes, the same for any number of them."""

import signal
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from segtrain.data.sampler import TrainBatchSampler
from segtrain.errors import ConfigError, DataError, SegtrainError
from segtrain.types import WHOLE, Batch, Sample, SegmentationDataset, Shard

# Plain values travel between processes, because torch can pin tuples but not a dataclass it does not know.
Parts = tuple[Tensor, Tensor, list[str]]


@dataclass(frozen=True)
class LoaderOptions:
    """How batches are made.

    Attributes:
        batch_size: samples in a training batch, of each process where several train together.
        eval_batch_size: the most samples in an evaluation batch; only samples of equal size share one.
        workers: processes that read and augment; 0 reads in the training process.
        drop_last: leave out an epoch's last, short batch, instead of filling it from the next epoch.
        timeout: seconds that a batch may take to arrive from the workers; 0 waits for ever.
    """

    batch_size: int
    eval_batch_size: int
    workers: int
    drop_last: bool
    timeout: float

    def __post_init__(self) -> None:
        for name, smallest in {"batch_size": 1, "eval_batch_size": 1, "workers": 0, "timeout": 0}.items():
            if getattr(self, name) < smallest:
                raise ConfigError(f"data.{name}={getattr(self, name)}: give {smallest} or more")


class TrainLoader:
    """Endless batches of one size each; every `iter` begins at `start_batch` again.

    Attributes:
        batches_per_epoch: see `TrainBatchSampler`.
    """

    def __init__(self, loader: DataLoader, sampler: TrainBatchSampler) -> None:
        self._loader = loader
        self.batches_per_epoch = sampler.batches_per_epoch

    def __iter__(self) -> Iterator[Batch]:
        for groups in _receive(self._loader):
            if len(groups) > 1:
                raise DataError(_unequal(groups))
            yield groups[0]


class EvalLoader:
    """Every item once and in order, as lists of batches; an item of another size begins a new batch in the list."""

    def __init__(self, loader: DataLoader) -> None:
        self._loader = loader

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[list[Batch]]:
        return _receive(self._loader)


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
        DataError: here, if no batch can be made; while iterating, whatever reading the samples raises, from a worker
            with the same text, or samples of unequal size in one batch.
    """
    sampler = TrainBatchSampler(
        len(dataset), options.batch_size, seed, options.drop_last, start_batch, shard, overfit_batches
    )
    return TrainLoader(_loader(dataset, options, sampler, pin_memory), sampler)


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
    return EvalLoader(_loader(dataset, options, batches, pin_memory))


class _Fetch(Dataset):
    """A data set of whole batches: reads the samples of one, stacks them, and returns a failure instead of raising.

    torch would raise a worker's exception anew as its traceback in one long text; some exceptions cannot even be
    sent, and the run would hang. A `SegtrainError` returned as a value arrives as it is.
    """

    def __init__(self, dataset: SegmentationDataset) -> None:
        self.dataset = dataset

    def __getitems__(self, keys: list[tuple[int, int]]) -> list[Parts] | Exception:
        try:
            samples = [self.dataset[key] for key in keys]
            return [_stack(list(group)) for _, group in groupby(samples, key=lambda sample: sample.image.shape)]
        except SegtrainError as error:
            return _with_note(error)
        except Exception as error:
            return _with_note(RuntimeError(f"{type(error).__name__}: {error}"))


def _with_note(failure: Exception) -> Exception:
    """`failure` with the traceback of the exception being handled as a note, which travels, unlike a traceback."""
    failure.add_note(f"While a batch was read:\n{traceback.format_exc()}")
    return failure.with_traceback(None)


def _stack(samples: list[Sample]) -> Parts:
    images = torch.from_numpy(np.stack([sample.image for sample in samples]))
    labels = torch.from_numpy(np.stack([sample.labels for sample in samples]))
    return images.permute(0, 3, 1, 2).contiguous(), labels, [sample.name for sample in samples]


def _loader(dataset: SegmentationDataset, options: LoaderOptions, batches: Any, pin_memory: bool) -> DataLoader:
    return DataLoader(
        _Fetch(dataset),
        batch_sampler=batches,
        num_workers=options.workers,
        collate_fn=_as_it_is,
        pin_memory=pin_memory,
        timeout=options.timeout if options.workers else 0,  # torch refuses one without workers
        worker_init_fn=_start_worker,
        generator=torch.Generator().manual_seed(0),  # else creating an iterator would advance the global one
    )


def _receive(loader: DataLoader) -> Iterator[list[Batch]]:
    """What the workers sent, with their failures raised here."""
    batches = iter(loader)
    try:
        while True:
            try:
                groups = next(batches)
            except StopIteration:
                return
            except RuntimeError as error:
                if "DataLoader" not in str(error):
                    raise
                raise DataError(_lost_worker(error, loader.timeout)) from error
            if isinstance(groups, Exception):
                raise groups
            yield [Batch(images, labels, tuple(names)) for images, labels, names in groups]
    finally:
        # Ends the workers now. An exception's traceback would keep them until garbage collection, which first
        # closes the queue that tells them to end, and then waits five seconds for each.
        del batches


def _lost_worker(error: RuntimeError, timeout: float) -> str:
    if "timed out" in str(error):
        return f"no batch arrived from the loader's workers in {timeout} s; raise data.timeout, or set data.workers=0"
    return f"a loader worker ended ({str(error).splitlines()[0]}); out of memory? lower data.workers or set it to 0"


def _unequal(groups: list[Batch]) -> str:
    sizes = [f"{group.names[0]} is {group.images.shape[2]}x{group.images.shape[3]}" for group in groups[:2]]
    return (
        f"samples of one training batch differ in size: {', '.join(sizes)} (height x width); crop them to one "
        "(augment=standard augment.crop_size=[HEIGHT,WIDTH]) or set data.batch_size=1"
    )


def _as_it_is(groups: list[Parts] | Exception) -> list[Parts] | Exception:
    return groups


def _start_worker(worker: int) -> None:
    """One thread a worker, and no part in the training process's signals: it decides when the workers end."""
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if hasattr(signal, "SIGUSR1"):
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
