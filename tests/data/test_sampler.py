from itertools import chain, islice

import pytest

from segtrain.data.sampler import TrainBatchSampler, epoch_order
from segtrain.errors import DataError


def batches(count, start_batch=0, **changes):
    options = {"num_items": 10, "batch_size": 4, "seed": 0, "drop_last": True}
    return list(islice(TrainBatchSampler(**(options | changes), start_batch=start_batch), count))


def test_an_epochs_order_is_a_permutation_that_seed_and_epoch_decide():
    order = epoch_order(50, seed=1, epoch=2)
    assert sorted(order) == list(range(50))
    assert order == epoch_order(50, seed=1, epoch=2)
    assert order != epoch_order(50, seed=1, epoch=3)
    assert order != epoch_order(50, seed=2, epoch=2)


def test_with_drop_last_an_epoch_has_whole_batches_of_its_own_items():
    for epoch, first in enumerate(range(0, 6, 2)):
        expected = [(epoch, index) for index in epoch_order(10, 0, epoch)[:8]]
        assert [*chain(*batches(6)[first : first + 2])] == expected


def test_without_drop_last_epochs_follow_each_other_without_a_seam():
    stream = [*chain(*batches(5, drop_last=False))]
    assert stream == [(epoch, index) for epoch in range(2) for index in epoch_order(10, 0, epoch)]


def test_without_drop_last_a_batch_may_be_larger_than_the_data():
    batch = batches(1, num_items=3, drop_last=False, batch_size=7)[0]
    assert [epoch for epoch, _ in batch] == [0, 0, 0, 1, 1, 1, 2]


@pytest.mark.parametrize("drop_last", [True, False])
@pytest.mark.parametrize("start", [1, 2, 3, 7])
def test_starting_later_is_slicing_the_stream(drop_last, start):
    whole = batches(12, drop_last=drop_last)
    assert batches(12 - start, start_batch=start, drop_last=drop_last) == whole[start:]


def test_starting_far_out_needs_no_replay():
    assert batches(1, start_batch=10**15)[0][0][0] == 10**15 // 2


@pytest.mark.parametrize(("drop_last", "expected"), [(True, 2), (False, 3)])
def test_batches_per_epoch(drop_last, expected):
    sampler = TrainBatchSampler(10, 4, seed=0, drop_last=drop_last, start_batch=0)
    assert sampler.batches_per_epoch == expected


@pytest.mark.parametrize(("num_items", "message"), [(0, "data set is empty"), (3, "data.batch_size=4 is larger")])
def test_too_few_items_are_an_error(num_items, message):
    with pytest.raises(DataError, match=message):
        TrainBatchSampler(num_items, 4, seed=0, drop_last=True, start_batch=0)
