import cv2
import numpy as np
import pytest

from segtrain.data.augment import RandomScaleCrop
from segtrain.errors import DataError
from segtrain.transforms import build_transforms
from segtrain.types import Sample

FLIP = {"_target_": "albumentations.HorizontalFlip", "p": 0.5}
VERTICAL = {"_target_": "albumentations.VerticalFlip", "p": 0.5}


def build(spec, ignore_index=255):
    return build_transforms(spec, ignore_index, key="augment.train", packages=None)


def crop(size=(8, 8), scale=(1.0, 1.0), fill=(0.5, 0.5, 0.5), fill_mask=255):
    return {
        "_target_": "segtrain.data.augment.RandomScaleCrop",
        "size": list(size),
        "scale": list(scale),
        "fill": list(fill),
        "fill_mask": fill_mask,
    }


def numbered(height, width, channels=3, dtype=np.uint8):
    """A sample whose pixels and labels all differ: label y * width + x, and the image shows the label."""
    labels = np.arange(height * width, dtype=dtype).reshape(height, width)
    image = np.repeat(labels[..., None], channels, axis=2).astype(np.uint8)
    return Sample(image, labels, "sample")


# Seeding.


def test_a_sample_depends_on_seed_epoch_and_index_alone():
    spec = {"crop": crop(scale=(0.5, 2.0)), "flip": FLIP, "colour": {"_target_": "albumentations.ColorJitter"}}
    sample = numbered(12, 12)
    first = build(spec)(sample, 1, 2, 3)
    used = build(spec)
    for index in range(5):
        used(sample, 0, 0, index)
    again = used(sample, 1, 2, 3)
    assert np.array_equal(again.image, first.image)
    assert np.array_equal(again.labels, first.labels)


@pytest.mark.parametrize("other", [(2, 0, 0), (1, 1, 0), (1, 0, 1)])
def test_another_seed_epoch_or_index_is_another_draw(other):
    transform = build({"crop": crop(size=(4, 4))})
    sample = numbered(15, 15)
    assert not np.array_equal(transform(sample, *other).labels, transform(sample, 1, 0, 0).labels)


def test_horizontal_and_vertical_flips_are_independent():
    transform = build({"flip": FLIP, "vertical": VERTICAL})
    corners = [int(transform(numbered(2, 2), 0, 0, index).labels[0, 0]) for index in range(400)]
    counts = np.bincount(corners, minlength=4)  # upper left pixel: 0 none, 1 horizontal, 2 vertical, 3 both flips
    assert (abs(counts - 100) < 35).all()  # four standard deviations of a binomial draw


def test_no_global_generator_is_read_or_advanced():
    np.random.seed(0)
    before = np.random.get_state()[1].tolist()
    build({"crop": crop(scale=(0.5, 2)), "colour": {"_target_": "albumentations.ColorJitter"}})(numbered(9, 9), 0, 0, 0)
    assert np.random.get_state()[1].tolist() == before


def test_no_transforms_are_the_identity():
    sample = numbered(3, 3)
    assert build({})(sample, 0, 0, 0) is sample


# Padding and cropping.


@pytest.mark.parametrize("ignore_index", [255, 17])
@pytest.mark.parametrize(
    "padding",
    [
        {"_target_": "albumentations.PadIfNeeded", "min_height": 8, "min_width": 8},
        {"_target_": "albumentations.RandomCrop", "height": 8, "width": 8, "pad_if_needed": True},
        {"_target_": "albumentations.Affine", "translate_percent": [0.5, 0.5], "p": 1},
        {"_target_": "albumentations.Rotate", "limit": [45, 45], "p": 1},
        {name: value for name, value in crop().items() if name != "fill_mask"},
    ],
)
def test_padding_has_the_ignore_index_as_its_label(padding, ignore_index):
    ones = Sample(np.ones((6, 6, 3), np.uint8), np.ones((6, 6), np.uint8), "ones")
    labels = build({"pad": padding}, ignore_index)(ones, 0, 0, 0).labels
    assert set(np.unique(labels)) == {1, ignore_index}


def test_an_explicit_fill_mask_is_kept():
    transform = build({"pad": {"_target_": "albumentations.Pad", "padding": 1, "fill_mask": 3}})
    assert transform(numbered(1, 1), 0, 0, 0).labels.tolist() == [[3, 3, 3], [3, 0, 3], [3, 3, 3]]


def test_transforms_inside_others_get_the_ignore_index_too():
    inner = {"_target_": "albumentations.Pad", "padding": 1}
    transform = build({"one": {"_target_": "albumentations.OneOf", "transforms": [inner], "p": 1}})
    assert transform(numbered(1, 1), 0, 0, 0).labels[0, 0] == 255


def test_dropped_boxes_leave_labels_alone_as_by_default():
    transform = build({"drop": {"_target_": "albumentations.CoarseDropout", "p": 1}})
    sample = numbered(16, 16)
    assert np.array_equal(transform(sample, 0, 0, 0).labels, sample.labels)


def test_a_crop_at_scale_one_is_a_window_of_the_image_and_its_labels():
    sample = numbered(12, 20)
    result = build({"crop": crop(size=(5, 7))})(sample, 0, 0, 0)
    top, left = divmod(int(result.labels[0, 0]), 20)
    assert np.array_equal(result.labels, sample.labels[top : top + 5, left : left + 7])
    assert np.array_equal(result.image, sample.image[top : top + 5, left : left + 7])


def test_padding_of_the_image_is_its_mean_colour_exactly_where_labels_are_ignored():
    result = build({"crop": crop(size=(9, 9), fill=(0.0, 0.5, 1.0))})(numbered(4, 4), 0, 0, 0)
    ignored = result.labels == 255
    assert ignored.sum() == 9 * 9 - 16
    assert (result.image[ignored] == (0, 128, 255)).all()


def test_scale_two_shows_a_quarter_of_the_area_as_scaling_the_whole_does():
    sample = Sample(cv2.GaussianBlur(numbered(16, 16).image, (5, 5), 2), numbered(16, 16).labels, "smooth")
    result = build({"crop": crop(size=(8, 8), scale=(2, 2))})(sample, 0, 0, 0)
    top, left = divmod(int(result.labels[0, 0]), 16)
    whole = cv2.resize(sample.image, (32, 32))[2 * top : 2 * top + 8, 2 * left : 2 * left + 8]
    inner = (slice(1, -1), slice(1, -1))  # but for the rim, whose neighbours were cut away
    assert np.array_equal(result.image[inner], whole[inner])
    assert result.labels[:, ::2].tolist() == result.labels[:, 1::2].tolist()


@pytest.mark.parametrize("dtype", [np.uint8, np.int32])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_scale_and_image_size_gives_the_crop_size(channels, dtype):
    transform = build({"crop": crop(size=(7, 5), scale=(0.3, 3), fill=[0.5] * channels), "flip": FLIP})
    for index, (height, width) in enumerate([(3, 3), (7, 5), (20, 4), (4, 20), (40, 41), (1, 1)] * 5):
        result = transform(numbered(height, width, channels, dtype), 0, 0, index)
        assert result.image.shape == (7, 5, channels)
        assert result.labels.shape == (7, 5)
        assert result.labels.dtype == dtype


def test_no_scale_invents_a_label():
    transform = build({"crop": crop(size=(16, 16), scale=(0.4, 2.5))})
    labels = np.where(np.arange(400).reshape(20, 20) % 3 == 0, 9, 2).astype(np.uint8)
    for index in range(20):
        result = transform(Sample(np.zeros((20, 20, 3), np.uint8), labels, "s"), 0, 0, index)
        assert set(np.unique(result.labels)) <= {2, 9, 255}


def test_a_crop_larger_than_the_image_names_the_item():
    transform = build({"crop": {"_target_": "albumentations.RandomCrop", "height": 9, "width": 9}})
    with pytest.raises(DataError, match=r"sample \(4x6\): augmentation failed: Crop size"):
        transform(numbered(4, 6), 0, 0, 0)


def test_a_fill_of_the_wrong_number_of_channels_names_the_item():
    with pytest.raises(DataError, match="fill has 3 values for an image of 1 channels"):
        build({"crop": crop()})(numbered(9, 9, channels=1), 0, 0, 0)


def test_random_scale_crop_draws_its_scale_from_the_whole_range():
    transform = RandomScaleCrop(size=[100, 100], scale=[0.5, 2.0], fill=[0, 0, 0], fill_mask=255)
    windows = [transform.get_params_dependent_on_data({"shape": (9, 9, 3)}, {})["window"][0] for _ in range(300)]
    assert 50 <= min(windows) < 56
    assert 170 < max(windows) <= 200
