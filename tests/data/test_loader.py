from itertools import islice

import numpy as np
import pytest
import torch
from torch.utils.data._utils.pin_memory import pin_memory

from segtrain.data.board import Board
from segtrain.data.fetching import Fetch
from segtrain.data.loader import LoaderOptions, eval_loader, train_loader
from segtrain.errors import ConfigError, DataError
from segtrain.transforms import build_transforms
from segtrain.types import WHOLE, Sample, Shard


def options(**changes):
    standard = {
        "batch_size": 3,
        "eval_batch_size": 2,
        "workers": 0,
        "drop_last": True,
        "timeout": 60,
        "on_error": "raise",
        "max_skipped": 3,
    }
    return LoaderOptions(**(standard | changes))


def train(dataset, count, start_batch=0, shard=WHOLE, overfit_batches=None, **changes):
    loader = train_loader(dataset, options(**changes), 4, start_batch, False, shard, overfit_batches)
    return list(islice(loader, count))


def evaluate(dataset, shard=WHOLE, **changes):
    return list(eval_loader(dataset, options(**changes), pin_memory=False, shard=shard))


@pytest.fixture
def augmented(shapes):
    spec = {
        "crop": {
            "_target_": "segtrain.data.augment.RandomScaleCrop",
            "size": [40, 40],
            "scale": [0.5, 2.0],
            "fill": [0.5, 0.5, 0.5],
        },
        "flip": {"_target_": "albumentations.HorizontalFlip", "p": 0.5},
        "colour": {"_target_": "albumentations.ColorJitter", "p": 1.0},
        "noise": {"_target_": "albumentations.GaussNoise", "p": 1.0},
    }
    return shapes(num_train=7).with_transform(build_transforms(spec, 255, "augment.train", packages=None), seed=4)


def assert_equal(first, second):
    for a, b in zip(first, second, strict=True):
        assert a.names == b.names
        assert torch.equal(a.images, b.images)
        assert torch.equal(a.labels, b.labels)


class Sized:
    """A data set of zeros, of the sizes given; `action` is called with an item's index before it is read."""

    class_names = ("a", "b")
    palette = ((0, 0, 0), (1, 1, 1))
    ignore_index = 255
    in_channels = 3

    def __init__(self, *sizes, action=lambda index: None):
        self.sizes = sizes
        self.action = action

    def __len__(self):
        return len(self.sizes)

    def names(self):
        return [str(index) for index in range(len(self))]

    def describe(self, index):
        return f"item {index}"

    def __getitem__(self, key):
        self.action(key[1])
        size = self.sizes[key[1]]
        return Sample(np.zeros((*size, 3), np.uint8), np.zeros(size, np.uint8), str(key[1]))


def fail_with_data_error(index):
    raise DataError("mask.png: label value 34 at row 12, column 80")


def test_a_training_batch_is_stacked_channels_first(shapes):
    batch = train(shapes(), 1)[0]
    assert batch.images.shape == (3, 3, 48, 64)
    assert batch.images.dtype == batch.labels.dtype == torch.uint8
    assert batch.labels.shape == (3, 48, 64)
    assert batch.images[1].permute(1, 2, 0).tolist() == shapes().read(int(batch.names[1][-5:])).image.tolist()


def test_the_augmented_stream_is_the_same_with_0_and_2_workers_across_epochs(augmented):
    assert_equal(train(augmented, 7, workers=0), train(augmented, 7, workers=2))


def test_starting_at_a_later_batch_is_slicing_the_augmented_stream(augmented):
    assert_equal(train(augmented, 7)[3:], train(augmented, 4, start_batch=3))


def test_an_item_is_augmented_differently_in_the_next_epoch(augmented):
    whole = train(augmented, 2, batch_size=7)
    order = [whole[1].names.index(name) for name in whole[0].names]
    assert not torch.equal(whole[0].images, whole[1].images[order])


@pytest.mark.parametrize("workers", [0, 1])
def test_no_global_random_state_is_consumed(workers, shapes, augmented):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    train(augmented, 2, workers=workers)
    evaluate(shapes(), workers=workers)
    assert torch.equal(torch.get_rng_state(), before)


def test_what_a_worker_sends_can_be_pinned(shapes, monkeypatch):
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: -tensor)
    fetched = Fetch(shapes(), Board(0), None, 0).__getitems__([(0, 1), (0, 2)])
    pinned = pin_memory(fetched)
    assert torch.equal(pinned.groups[0][0], -fetched.groups[0][0])
    assert torch.equal(pinned.groups[0][1], -fetched.groups[0][1])
    assert pinned.groups[0][2] == fetched.groups[0][2]
    assert (pinned.skipped, pinned.failure) == (fetched.skipped, fetched.failure)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_data_error_arrives_with_its_own_text(workers):
    with pytest.raises(DataError) as caught:
        train(Sized(*[(2, 2)] * 3, action=fail_with_data_error), 1, workers=workers)
    assert str(caught.value) == "mask.png: label value 34 at row 12, column 80"


def test_a_data_error_of_a_worker_carries_the_workers_traceback_as_a_note():
    with pytest.raises(DataError) as caught:
        train(Sized(*[(2, 2)] * 3, action=fail_with_data_error), 1, workers=1)
    assert "in fail_with_data_error" in "".join(caught.value.__notes__)


def test_samples_of_unequal_size_in_one_batch_are_an_error_with_the_remedy():
    with pytest.raises(DataError, match=r"differ in size: .*crop_size.* or set data\.batch_size=1"):
        train(Sized((2, 2), (2, 3), (2, 2)), 1)


def test_a_batch_larger_than_the_data_is_an_error():
    with pytest.raises(DataError, match=r"data\.batch_size=3 is larger than the training data of 2 items"):
        train(Sized((2, 2), (2, 2)), 1)


def test_evaluation_groups_neighbours_of_equal_size_and_keeps_every_item_in_order():
    small, large = (2, 2), (3, 3)
    lists = evaluate(Sized(small, small, large, small, large), eval_batch_size=4)
    assert [[batch.names for batch in batches] for batches in lists] == [[("0", "1"), ("2",), ("3",)], [("4",)]]


@pytest.mark.parametrize("workers", [0, 2])
def test_evaluation_yields_every_item_exactly_once(workers, shapes):
    lists = evaluate(shapes("val", num_val=5), workers=workers)
    assert [name for batches in lists for batch in batches for name in batch.names] == [
        f"val_0000{index}" for index in range(5)
    ]


def test_evaluation_can_be_repeated(shapes):
    loader = eval_loader(shapes("val"), options(workers=1), pin_memory=False)
    assert_equal([batch for batches in loader for batch in batches], [batch for batches in loader for batch in batches])


@pytest.mark.parametrize("num_items", [1, 2, 3, 5, 7])
@pytest.mark.parametrize("size", [2, 3])
def test_processes_evaluate_every_item_exactly_once_and_pad_nothing(num_items, size):
    data = Sized(*[(2, 2)] * num_items)
    names = [
        [name for batches in evaluate(data, Shard(rank, size)) for batch in batches for name in batch.names]
        for rank in range(size)
    ]
    assert names == [[str(index) for index in range(rank, num_items, size)] for rank in range(size)]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_process_without_any_item_to_evaluate_evaluates_none(workers):
    loader = eval_loader(Sized((2, 2)), options(workers=workers), pin_memory=False, shard=Shard(1, 2))
    assert len(loader) == 0
    assert list(loader) == []


def test_processes_train_on_the_parts_of_the_batch_of_one(augmented):
    whole = train(augmented, 3, batch_size=6)
    parts = [train(augmented, 3, batch_size=3, shard=Shard(rank, 2)) for rank in (0, 1)]
    for batch, first, second in zip(whole, *parts, strict=True):
        assert batch.names == first.names + second.names
        assert torch.equal(batch.images, torch.cat([first.images, second.images]))
        assert torch.equal(batch.labels, torch.cat([first.labels, second.labels]))


def test_overfitting_repeats_its_batches_with_the_same_augmentation(augmented):
    batches = train(augmented, 5, overfit_batches=2)
    assert_equal(batches[2:], batches[:3])


def test_an_empty_evaluation_set_is_an_error():
    with pytest.raises(DataError, match="evaluation data set is empty"):
        evaluate(Sized())


def test_a_damaged_file_reaches_the_user_from_a_worker_in_one_line(write_folder, save, folder):
    root = write_folder({"x": np.zeros((40, 40))})
    path = save(root / "images" / "x.jpg", np.random.default_rng(0).integers(0, 255, (40, 40, 3)))
    path.write_bytes(path.read_bytes()[:700])
    with pytest.raises(DataError, match=r"x\.jpg: unreadable or truncated") as caught:
        train(folder(root), 1, workers=1, batch_size=1)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "wrong",
    [{"batch_size": 0}, {"eval_batch_size": 0}, {"workers": -1}, {"timeout": -1}, {"max_skipped": -1}],
    ids=lambda wrong: next(iter(wrong)),
)
def test_an_impossible_loader_option_is_a_config_error_with_its_key(wrong):
    name, value = next(iter(wrong.items()))
    with pytest.raises(ConfigError, match=f"data.{name}={value}"):
        options(**wrong)
