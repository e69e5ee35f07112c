"""Which samples make up training batch number b: a pure function of (seed, b), so that resuming is starting at b."""

import hashlib
from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler

from segtrain.errors import DataError


def epoch_order(num_items: int, seed: int, epoch: int) -> list[int]:
    """The order of the items in an epoch: a permutation that (seed, epoch) alone decide."""
    state = int.from_bytes(hashlib.blake2b(f"{seed}|{epoch}".encode(), digest_size=8).digest(), "little")
    return np.random.default_rng(state).permutation(num_items).tolist()


class TrainBatchSampler(Sampler[list[tuple[int, int]]]):
    """Endless batches of (epoch, index), from batch `start_batch` on.

    With `drop_last` an epoch is its first num_items // batch_size batches, and the items left over sit out, other
    ones in every epoch. Without, epochs follow each other without a seam: a batch may hold the end of one and the
    beginning of the next, none is short, and none of the items is left out.

    >>> sampler = TrainBatchSampler(num_items=5, batch_size=2, seed=0, drop_last=False, start_batch=2)
    >>> [epoch for epoch, _ in next(iter(sampler))]
    [0, 1]

    Args:
        num_items: of the data set.
        batch_size: samples in every batch.
        seed: of the order.
        drop_last: see above.
        start_batch: how many batches came before, in an earlier part of the run.

    Attributes:
        batches_per_epoch: in `max_epochs` * this many batches every item has been drawn `max_epochs` times
            (`drop_last` aside); rounded up where epochs run into each other.

    Raises:
        DataError: no items, or with `drop_last` fewer than a batch.
    """

    def __init__(self, num_items: int, batch_size: int, seed: int, drop_last: bool, start_batch: int) -> None:
        if num_items == 0:
            raise DataError("the training data set is empty; check data.root and data.train_split")
        if drop_last and num_items < batch_size:
            raise DataError(
                f"data.batch_size={batch_size} is larger than the training data of {num_items} items, and "
                "data.drop_last=true leaves no batch at all; lower data.batch_size or set data.drop_last=false"
            )
        self.num_items = num_items
        self.batch_size = batch_size
        self.seed = seed
        self.drop_last = drop_last
        self.start_batch = start_batch
        self.batches_per_epoch = num_items // batch_size if drop_last else -(-num_items // batch_size)
        self._order: tuple[int, list[int]] = (-1, [])

    def batch(self, number: int) -> list[tuple[int, int]]:
        """Batch `number`, counted from 0 over all epochs."""
        if self.drop_last:
            epoch, place = divmod(number, self.batches_per_epoch)
            items = range(epoch * self.num_items + place * self.batch_size, (epoch + 1) * self.num_items)
        else:
            items = range(number * self.batch_size, (number + 1) * self.batch_size)
        return [self._item(item) for item in items[: self.batch_size]]

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
