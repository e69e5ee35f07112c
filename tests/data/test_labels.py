import numpy as np
import pytest

from segtrain.data.labels import LabelMap, check_palette, default_palette, pack_colour
from segtrain.errors import ConfigError, DataError

AB = ["a", "b"]


def mask(*rows, dtype=np.uint8):
    return np.array(rows, dtype=dtype)


def test_the_voc_colour_map_begins_and_ends_as_published():
    palette = default_palette(256)
    assert palette[:4] == ((0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0))
    assert palette[15] == (192, 128, 128)
    assert palette[255] == (224, 224, 192)


def test_without_labels_values_are_classes_and_the_ignore_index_stays():
    result = LabelMap(AB, None, 255).apply(mask([0, 1, 255]), "m.png")
    assert result.tolist() == [[0, 1, 255]]
    assert result.dtype == np.uint8


def test_a_value_out_of_range_is_named_with_file_row_and_column():
    values = np.zeros((20, 100), dtype=np.uint8)
    values[12, 80] = 34
    with pytest.raises(DataError, match=r"^m\.png: label value 34 at row 12, column 80, but the data has 2 classes"):
        LabelMap(AB, None, 255).apply(values, "m.png")


def test_a_value_255_gets_the_hint_that_the_mask_may_be_binary():
    with pytest.raises(DataError, match="mask_format=binary"):
        LabelMap(AB, None, 254).apply(mask([0, 255]), "m.png")


def test_labels_send_several_values_to_one_class_and_others_to_ignore():
    label_map = LabelMap(AB, {"a": [7], "b": [8, 300], "ignore": [0]}, 255)
    assert label_map.apply(mask([0, 7, 8, 300], dtype=np.uint16), "m.png").tolist() == [[255, 0, 1, 1]]


def test_a_value_that_is_in_no_list_is_an_error_even_if_it_is_a_class_index():
    with pytest.raises(DataError, match="label value 0 at row 0, column 1"):
        LabelMap(AB, {"a": [7], "b": [8]}, 255).apply(mask([7, 0]), "m.png")


@pytest.mark.parametrize("value", [-1, -(2**31), 2, 256, 70000])
def test_no_value_wraps_around_the_table(value):
    with pytest.raises(DataError, match=f"label value {value} at row 0, column 0"):
        LabelMap(AB, None, 255).apply(mask([value], dtype=np.int32), "m.png")


@pytest.mark.parametrize(("classes", "ignore_index"), [(AB, -1), ([str(i) for i in range(300)], 999)])
def test_labels_that_do_not_fit_a_byte_are_int32(classes, ignore_index):
    result = LabelMap(classes, None, ignore_index).apply(mask([1, ignore_index], dtype=np.int32), "m.png")
    assert result.tolist() == [[1, ignore_index]]
    assert result.dtype == np.int32


def test_colours_of_the_palette_are_classes():
    label_map = LabelMap(AB, None, 255, colours=True, palette=[[1, 2, 3], [255, 255, 255]])
    values = mask([pack_colour((255, 255, 255)), pack_colour((1, 2, 3))], dtype=np.int32)
    assert label_map.apply(values, "m.png").tolist() == [[1, 0]]


def test_vocs_colour_map_ignores_the_colour_of_the_ignore_index():
    label_map = LabelMap(AB, None, 255, colours=True)
    values = mask([0, pack_colour((128, 0, 0)), pack_colour((224, 224, 192))], dtype=np.int32)
    assert label_map.apply(values, "m.png").tolist() == [[0, 1, 255]]


def test_an_unknown_colour_is_named_with_its_position():
    label_map = LabelMap(AB, None, 255, colours=True)
    with pytest.raises(DataError, match=r"m\.png: colour \(1, 2, 3\) at row 1, column 0"):
        label_map.apply(mask([0], [pack_colour((1, 2, 3))], dtype=np.int32), "m.png")


def test_labels_can_list_colours():
    label_map = LabelMap(AB, {"a": [[0, 0, 1]], "b": [], "ignore": [[0, 0, 0]]}, 255, colours=True)
    assert label_map.apply(mask([1, 0], dtype=np.int32), "m.png").tolist() == [[0, 255]]


@pytest.mark.parametrize(
    ("classes", "labels", "ignore_index", "message"),
    [
        ([], None, 255, "data.classes is empty"),
        (["a", "a"], None, 255, "every name once"),
        (AB, None, 1, "data.ignore_index=1 is the class 'b'"),
        (AB, {"a": [0]}, 255, "no source values for b"),
        (AB, {"a": [0], "b": [1], "ignor": [2]}, 255, "did you mean 'ignore'"),
        (AB, {"a": [0], "b": [0]}, 255, "data.labels.b: the source value 0 already has a class"),
        (AB, {"a": [0], "b": [[1, 2, 3]]}, 255, "is not an integer"),
        (AB, {"a": [], "b": []}, 255, "lists no source value"),
    ],
)
def test_a_label_map_that_cannot_be_meant_is_a_config_error(classes, labels, ignore_index, message):
    with pytest.raises(ConfigError, match=message):
        LabelMap(classes, labels, ignore_index)


def test_two_classes_of_one_colour_cannot_be_decoded():
    with pytest.raises(ConfigError, match="one colour for two classes"):
        LabelMap(AB, None, 255, colours=True, palette=[[1, 2, 3], [1, 2, 3]])


@pytest.mark.parametrize("palette", [[[0, 0, 0]], [[0, 0, 0], [0, 0, 256]], [[0, 0, 0], [0, 0]]])
def test_a_palette_has_one_rgb_colour_for_every_class(palette):
    with pytest.raises(ConfigError, match=r"data\.palette"):
        check_palette(palette, 2)
