import pytest

from segtrain.data.skipping import SkippedItems
from segtrain.data.statistics import pixel_counts
from segtrain.errors import DataError


def test_pixels_are_counted_by_class_and_by_the_images_a_class_occurs_in(write_folder, folder):
    dataset = folder(write_folder({"x": [[0, 0, 1], [255, 255, 255]], "y": [[0, 0, 0], [0, 0, 255]]}))
    counts = pixel_counts(dataset, progress=False)
    assert counts.pixels.tolist() == [7, 1]
    assert counts.image_pixels.tolist() == [3 + 5, 3]  # ignored pixels count in neither


def test_a_class_that_never_occurs_has_zero_pixels(write_folder, folder):
    counts = pixel_counts(folder(write_folder({"x": [[0, 0]]})), progress=False)
    assert counts.pixels.tolist() == counts.image_pixels.tolist() == [2, 0]


def test_counting_reads_no_image(write_folder, save, folder):
    root = write_folder({"x": [[0, 1]]})
    save(root / "images" / "x.jpg", [[0]]).write_bytes(b"damaged")
    assert pixel_counts(folder(root), progress=False).pixels.tolist() == [1, 1]


def test_a_damaged_mask_is_an_error_or_by_choice_left_out(write_folder, folder):
    root = write_folder({"x": [[0, 1]], "y": [[1, 1]]})
    (root / "masks" / "x.png").write_bytes(b"damaged")
    dataset = folder(root)
    with pytest.raises(DataError, match=r"x\.png: damaged"):
        pixel_counts(dataset, progress=False)
    skipped = SkippedItems(limit=1, name=lambda index: dataset.names()[index])
    assert pixel_counts(dataset, progress=False, skipped=skipped).pixels.tolist() == [0, 2]
    assert list(skipped.reasons) == ["x"]
