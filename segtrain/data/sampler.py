"""Which samples make up training batch number b: a pure function of (seed, b), so that resuming is starting at b."""

import hashlib
from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler

from segtrain.errors import ConfigError, DataError
from segtrain.types import WHOLE, Shard


def epoch_order(num_items: int, seed: int, epoch: int) -> list[int]:
    """The order of the items in an epoch: a permutation that (seed, epoch) alone decide."""
    return _permutation(num_items, f"{seed}|{epoch}")


def substitutes(num_items: int, seed: int, epoch: int, index: int) -> list[int]:
    """What to train on where item `index` cannot be read: the other items, in the order in which to try them.

    A permutation that (seed, epoch, index) alone decide, so that a repeated or resumed run trains on the same.
    """
    return [other for other in _permutation(num_items, f"{seed}|{epoch}|{index}") if other != index]


def _permutation(num_items: int, key: str) -> list[int]:
    state = int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "little")
    return np.random.default_rng(state).permutation(num_items).tolist()


class TrainBatchSampler(Sampler[list[tuple[int, int]]]):
    """Endless batches of (epoch, index), from batch `start_batch` on.

    With `drop_last` an epoch is its first num_items // batch_size batches, and the items left over sit out, other
    ones in every epoch. Without, epochs follow each other without a seam: a batch may hold the end of one and the
    beginning of the next, none is short, and none of the items is left out.

    >>> sampler = TrainBatchSampler(num_items=5, batch_size=2, seed=0, drop_last=False, start_batch=2)
    >>> [epoch for epoch, _ in next(iter(sampler))]
    [0, 1]

    Several processes share every batch: all that is said of a batch here holds of the global one, of
    `batch_size * shard.size` items, which are those that one process with so large a batch would see. Each process
    gets the part of its rank, `batch_size` items in a row.

    Args:
        num_items: of the data set.
        batch_size: samples in every batch of every process.
        seed: of the order.
        drop_last: see above.
        start_batch: how many batches came before, in an earlier part of the run.
        shard: the process among those that train together.
        overfit_batches: only ever the run's first so many batches, again and again, under the same keys and therefore
            augmented the same way each time; None: all.

    Attributes:
        batches_per_epoch: in `max_epochs` * this many batches every item has been drawn `max_epochs` times
            (`drop_last` aside); rounded up where epochs run into each other; `overfit_batches` where that is given.

    Raises:
        ConfigError: `overfit_batches` is larger than an epoch.
        DataError: no items, or with `drop_last` fewer than a batch.
    """

    def __init__(
        self,
        num_items: int,
        batch_size: int,
        seed: int,
        drop_last: bool,
        start_batch: int,
        shard: Shard = WHOLE,
        overfit_batches: int | None = None,
    ) -> None:
        if num_items == 0:
            raise DataError("the training data set is empty; check data.root and data.train_split")
        if drop_last and num_items < batch_size * shard.size:
            raise DataError(_too_few(num_items, batch_size, shard.size))
        self.num_items = num_items
        self.batch_size = batch_size
        self.seed = seed
        self.drop_last = drop_last
        self.start_batch = start_batch
        self.shard = shard
        self._global_size = batch_size * shard.size
        self._epoch_length = num_items // self._global_size if drop_last else -(-num_items // self._global_size)
        if overfit_batches is not None and not 1 <= overfit_batches <= self._epoch_length:
            raise ConfigError(
                f"trainer.overfit_batches={overfit_batches}: an epoch has {self._epoch_length} "
                f"batch(es) of {self._global_size}; give 1 to {self._epoch_length}, or null for all"
            )
        self.overfit_batches = overfit_batches
        self.batches_per_epoch = overfit_batches or self._epoch_length
        self._order: tuple[int, list[int]] = (-1, [])

    def batch(self, number: int) -> list[tuple[int, int]]:
        """This process's part of batch `number`, counted from 0 over all epochs."""
        if self.overfit_batches is not None:
            number %= self.overfit_batches
        if self.drop_last:
            epoch, place = divmod(number, self._epoch_length)
            first = epoch * self.num_items + place * self._global_size
        else:
            first = number * self._global_size
        first += self.shard.rank * self.batch_size
        return [self._item(item) for item in range(first, first + self.batch_size)]

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        number = self.start_batch
        while True:
            yield self.batch(number)
            number += 1

    def _item(self, number: int) -> tuple[int, int]:
        """Item `number` of the stream of all epochs; keeps the order of the epoch it is in."""
        epoch, place = divmod(number, self.num_items)
        if self._order[0] != epoch:
            self._order = (epoch, epoch_order(self.num_items, self.seed, epoch))
        return epoch, self._order[1][place]


def _too_few(num_items: int, batch_size: int, devices: int) -> str:
    if devices == 1:
        return (
            f"data.batch_size={batch_size} is larger than the training data of {num_items} items, and "
            "data.drop_last=true leaves no batch at all; lower data.batch_size or set data.drop_last=false"
        )
    return (
        f"data.batch_size={batch_size} on trainer.devices={devices} is {batch_size * devices} items, the training data "
        f"has {num_items}, and data.drop_last=true leaves no batch at all; lower data.batch_size or trainer.devices, "
        "or set data.drop_last=false"
    )
