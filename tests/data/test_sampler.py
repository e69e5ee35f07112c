from itertools import chain, islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segtrain.data.sampler import TrainBatchSampler, epoch_order
from segtrain.errors import ConfigError, DataError
from segtrain.types import Shard


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


def test_two_processes_halve_the_batch_of_one_with_twice_the_size():
    whole = batches(2, batch_size=4)
    first, second = (batches(2, batch_size=2, shard=Shard(rank, 2)) for rank in (0, 1))
    assert first == [whole[0][:2], whole[1][:2]]
    assert second == [whole[0][2:], whole[1][2:]]


@given(
    num_items=st.integers(1, 40),
    batch_size=st.integers(1, 5),
    size=st.integers(1, 4),
    number=st.integers(0, 10**9),
    drop_last=st.booleans(),
    data=st.data(),
)
def test_the_parts_of_all_ranks_in_turn_are_the_batch_of_one_process(
    num_items, batch_size, size, number, drop_last, data
):
    drop_last = drop_last and num_items >= batch_size * size
    probe = TrainBatchSampler(num_items, batch_size * size, 3, drop_last, 0)
    overfit = data.draw(st.none() | st.integers(1, probe.batches_per_epoch))
    whole = TrainBatchSampler(num_items, batch_size * size, 3, drop_last, 0, overfit_batches=overfit)
    parts = [
        TrainBatchSampler(num_items, batch_size, 3, drop_last, 0, Shard(rank, size), overfit) for rank in range(size)
    ]
    assert [*chain(*(part.batch(number) for part in parts))] == whole.batch(number)
    assert {part.batches_per_epoch for part in parts} == {whole.batches_per_epoch}


def test_an_epoch_is_counted_in_batches_of_all_processes():
    # 10 items, 2 on each of 2 processes: 2 whole global batches of 4, or 3 where the last is filled up
    assert TrainBatchSampler(10, 2, 0, True, 0, Shard(1, 2)).batches_per_epoch == 2
    assert TrainBatchSampler(10, 2, 0, False, 0, Shard(1, 2)).batches_per_epoch == 3


def test_a_batch_of_all_processes_larger_than_the_data_is_an_error_that_names_both_keys():
    with pytest.raises(DataError, match=r"data\.batch_size=4 on trainer\.devices=3 is 12 items.* has 10"):
        TrainBatchSampler(10, 4, seed=0, drop_last=True, start_batch=0, shard=Shard(0, 3))


@pytest.mark.parametrize("drop_last", [True, False])
def test_overfitting_repeats_the_first_batches_under_their_first_keys(drop_last):
    first, second = batches(2, drop_last=drop_last)
    stream = batches(5, drop_last=drop_last, overfit_batches=2)
    assert stream == [first, second, first, second, first]
    assert {epoch for epoch, _ in chain(*stream)} == {0}


@pytest.mark.parametrize("start", [1, 2, 5])
def test_overfitting_started_later_is_slicing_its_stream(start):
    assert batches(4, start_batch=start, overfit_batches=2) == batches(9, overfit_batches=2)[start : start + 4]


def test_an_epoch_of_overfitting_is_its_batches():
    assert TrainBatchSampler(10, 4, 0, True, 0, overfit_batches=1).batches_per_epoch == 1


@pytest.mark.parametrize("wrong", [0, -1, 3])
def test_overfitting_on_more_batches_than_an_epoch_has_is_a_config_error(wrong):
    with pytest.raises(
        ConfigError, match=rf"trainer\.overfit_batches={wrong}: an epoch has 2 batch.* of 4; give 1 to 2"
    ):
        TrainBatchSampler(10, 4, seed=0, drop_last=True, start_batch=0, overfit_batches=wrong)
