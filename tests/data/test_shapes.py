import numpy as np
import pytest

from segtrain.errors import ConfigError, DataError


def counts(dataset):
    return sum(np.bincount(dataset.read_labels(i).ravel(), minlength=256) for i in range(len(dataset)))


def test_a_picture_depends_on_nothing_but_seed_split_and_index(shapes):
    np.random.seed(1)
    first = shapes().read(3)
    np.random.seed(2)
    other = shapes(num_train=50)
    other.read(0)
    assert np.array_equal(other.read(3).image, first.image)
    assert np.array_equal(other.read(3).labels, first.labels)


@pytest.mark.parametrize("changes", [{"split": "val"}, {"drawing_seed": 1}])
def test_another_split_or_seed_has_other_pictures(changes, shapes):
    assert not np.array_equal(shapes(**changes).read(0).image, shapes().read(0).image)


@pytest.mark.parametrize("in_channels", [1, 3])
def test_a_picture_has_the_size_and_channels_asked_for(in_channels, shapes):
    sample = shapes(size=[33, 70], in_channels=in_channels).read(0)
    assert sample.image.shape == (33, 70, in_channels)
    assert sample.labels.shape == (33, 70)
    assert sample.image.dtype == sample.labels.dtype == np.uint8


def test_every_class_occurs_in_a_small_split(shapes):
    assert (counts(shapes(num_train=12))[:7] > 0).all()


def test_labels_are_classes_or_ignored(shapes):
    assert counts(shapes()).nonzero()[0].tolist() == [*range(7), 255]


def test_classes_are_imbalanced(shapes):
    pixels = counts(shapes(size=[96, 96], num_train=60))
    assert pixels[0] > 4 * pixels[1] > 8 * pixels[6]


def test_a_rim_between_objects_and_background_is_ignored(shapes):
    for index in range(6):
        labels = shapes().read_labels(index)
        for a, b in ((labels[1:], labels[:-1]), (labels[:, 1:], labels[:, :-1])):
            touching = (a != b) & (a != 255) & (b != 255)
            assert not touching.any()


def test_names_are_unique_and_as_many_as_asked_for(shapes):
    dataset = shapes("val", num_val=7)
    assert len(set(dataset.names())) == len(dataset) == 7


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"split": "test"}, DataError, "has the splits train and val, not 'test'"),
        ({"num_train": 0}, DataError, "data.num_train=0: the data set is empty"),
        ({"size": [16, 64]}, ConfigError, "data.size="),
        ({"classes": ["background", "disk"]}, ConfigError, "did you mean 'disc'"),
        ({"classes": ["disc", "ring"]}, ConfigError, "begin with background"),
        ({"ignore_index": 3}, ConfigError, "data.ignore_index=3"),
    ],
)
def test_what_cannot_be_drawn_is_an_error(changes, error, message, shapes):
    with pytest.raises(error, match=message):
        shapes(**changes)
