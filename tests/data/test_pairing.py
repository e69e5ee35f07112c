import pytest

from segtrain.data.pairing import match_pairs, read_list, split_by_fractions
from segtrain.errors import ConfigError, DataError


def pairs(root, images, masks, names=None):
    found = match_pairs(root, images, masks, "LAYOUT", names)
    return {
        key: (image.relative_to(root).as_posix(), mask.relative_to(root).as_posix())
        for key, (image, mask) in found.items()
    }


def test_folders_are_matched_by_stem_whatever_the_suffix_in_sorted_order(tmp_path, touch):
    touch(tmp_path, "i/b.png", "i/a.b.jpg", "m/b.png", "m/a.b.tif")
    assert pairs(tmp_path, "i", "m") == {"a.b": ("i/a.b.jpg", "m/a.b.tif"), "b": ("i/b.png", "m/b.png")}


def test_globs_are_matched_by_what_their_wildcards_stand_for(tmp_path, touch):
    touch(tmp_path, "left/ulm/1_left.png", "left/bonn/1_left.png", "gt/ulm/1_ids.png", "gt/bonn/1_ids.png")
    touch(tmp_path, "gt/bonn/1_color.png")
    found = pairs(tmp_path, "left/*/*_left.png", "gt/*/*_ids.png")
    assert found == {
        "bonn/1": ("left/bonn/1_left.png", "gt/bonn/1_ids.png"),
        "ulm/1": ("left/ulm/1_left.png", "gt/ulm/1_ids.png"),
    }


def test_two_stars_stand_for_any_number_of_folders(tmp_path, touch):
    touch(tmp_path, "i/a.png", "i/x/y/b.png", "m/a.png", "m/x/y/b.png")
    assert list(pairs(tmp_path, "i/**/*.png", "m/**/*.png")) == ["a", "x/y/b"]


def test_what_is_no_image_or_hidden_is_left_out(tmp_path, touch):
    touch(tmp_path, "i/a.png", "i/.b.png", "m/a.png")
    (tmp_path / "i" / "notes.txt").write_text("x")
    assert list(pairs(tmp_path, "i", "m")) == ["a"]


def test_images_without_mask_are_counted_and_the_first_are_listed(tmp_path, touch):
    touch(tmp_path, *(f"i/{name}.png" for name in "abcde"), "m/a.png")
    with pytest.raises(DataError, match=r"4 images \(b, c, d, \.\.\.\) without a mask in m; LAYOUT"):
        pairs(tmp_path, "i", "m")


def test_masks_without_image_are_counted_and_listed(tmp_path, touch):
    touch(tmp_path, "i/a.png", "m/a.png", "m/b.png")
    with pytest.raises(DataError, match=r"1 mask \(b\) without an image in i"):
        pairs(tmp_path, "i", "m")


def test_only_listed_names_must_be_there(tmp_path, touch):
    touch(tmp_path, "i/a.png", "i/b.png", "i/c.png", "m/b.png", "m/c.png", "m/d.png")
    assert list(pairs(tmp_path, "i", "m", names=["c", "b"])) == ["c", "b"]


def test_a_listed_name_without_image_is_an_error_with_the_nearest_name(tmp_path, touch):
    touch(tmp_path, "i/frame_01.png", "m/frame_01.png")
    with pytest.raises(DataError, match=r"frame_1\).*did you mean 'frame_01'"):
        pairs(tmp_path, "i", "m", names=["frame_1"])


def test_two_files_of_one_stem_are_an_error(tmp_path, touch):
    touch(tmp_path, "i/a.png", "i/a.jpg", "m/a.png")
    with pytest.raises(DataError, match=r"a\.jpg and .*a\.png are both named a"):
        pairs(tmp_path, "i", "m")


def test_a_folder_without_images_is_an_error(tmp_path, touch):
    touch(tmp_path, "m/a.png")
    (tmp_path / "i").mkdir()
    with pytest.raises(DataError, match=r"no image matches data\.images=i; LAYOUT"):
        pairs(tmp_path, "i", "m")


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(DataError, match="absent: no such folder; LAYOUT"):
        pairs(tmp_path, "absent", "m")


@pytest.mark.parametrize("pattern", ["../elsewhere", "/elsewhere/*.png"])
def test_a_pattern_may_not_leave_the_root(tmp_path, pattern):
    with pytest.raises(ConfigError, match=r"leaves data\.root"):
        pairs(tmp_path, pattern, "m")


def test_a_list_keeps_its_order_and_takes_the_first_word_without_slash_and_suffix(tmp_path):
    path = tmp_path / "train.txt"
    path.write_text("b\n\n/JPEGImages/a.jpg /SegmentationClass/a.png\nv1.2\n")
    assert read_list(path) == ("b", "JPEGImages/a", "v1.2")


@pytest.mark.parametrize(("text", "message"), [("\n \n", "list is empty"), ("a\nb\na\n", "a is listed twice")])
def test_a_list_that_is_empty_or_repeats_a_name_is_an_error(tmp_path, text, message):
    (tmp_path / "train.txt").write_text(text)
    with pytest.raises(DataError, match=f"train.txt: .*{message}"):
        read_list(tmp_path / "train.txt")


def test_a_missing_list_is_an_error(tmp_path):
    with pytest.raises(DataError, match=r"train\.txt: cannot be read"):
        read_list(tmp_path / "train.txt")


def test_fractions_split_all_items_into_parts_that_exclude_each_other():
    keys = [f"{i}" for i in range(101)]
    parts = split_by_fractions(keys, {"train": 0.7, "val": 0.2, "test": 0.1}, seed=3)
    assert [len(part) for part in parts.values()] == [71, 20, 10]
    assert sorted(sum(parts.values(), ())) == sorted(keys)


def test_fractions_do_not_depend_on_the_order_of_the_items():
    keys = [f"{i}" for i in range(50)]
    halves = {"train": 0.5, "val": 0.5}
    assert split_by_fractions(keys, halves, seed=0) == split_by_fractions(keys[::-1], halves, seed=0)


def test_another_seed_draws_another_split():
    keys = [f"{i}" for i in range(50)]
    assert split_by_fractions(keys, {"train": 0.5}, seed=0) != split_by_fractions(keys, {"train": 0.5}, seed=1)


@pytest.mark.parametrize("fractions", [{"train": 0.9, "val": 0.2}, {"train": 0.0}, {"train": -0.1}])
def test_fractions_beyond_the_whole_are_an_error(fractions):
    with pytest.raises(ConfigError, match=r"data\.splits"):
        split_by_fractions(["a", "b"], fractions, seed=0)
