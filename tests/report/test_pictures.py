"""Pictures: colours land where the labels say, sizes are what was promised, files read back."""

import numpy as np
import pytest
from PIL import Image

from segtrain.report import pictures

PALETTE = ((10, 20, 30), (200, 0, 0), (0, 0, 250))
IGNORE = 255


@pytest.fixture
def labels():
    labels = np.zeros((6, 8), dtype=np.uint8)
    labels[:, 4:] = 1
    labels[0] = IGNORE
    return labels


@pytest.fixture
def image():
    return np.full((6, 8, 3), 100, dtype=np.uint8)


@pytest.mark.parametrize(("dtype", "ignore_index"), [(np.uint8, 255), (np.int32, -1), (np.int64, 1000)])
def test_colorize_paints_classes_and_void(dtype, ignore_index):
    labels = np.array([[0, 1], [2, ignore_index]], dtype=dtype)
    picture = pictures.colorize(labels, PALETTE, ignore_index)
    assert picture.tolist() == [[list(PALETTE[0]), list(PALETTE[1])], [list(PALETTE[2]), list(pictures.VOID)]]
    assert picture.dtype == np.uint8


@pytest.mark.parametrize("label", [3, -1])
def test_colorize_refuses_labels_without_a_colour(label):
    with pytest.raises(ValueError, match="3 colours"):
        pictures.colorize(np.array([[0, label]]), PALETTE, IGNORE)


def test_overlay_tints_by_alpha_and_leaves_void_bare(image, labels):
    picture = pictures.overlay(image, labels, PALETTE, IGNORE, alpha=0.5)
    assert picture[3, 6].tolist() == [150, 50, 50]
    assert picture[0, 1:3].tolist() == pytest.approx(np.broadcast_to(0.35 * 100 + 0.65 * 255, (2, 3)), abs=1)
    assert pictures.overlay(image, np.full_like(labels, IGNORE), PALETTE, IGNORE).tolist() == image.tolist()


def test_overlay_draws_its_line_between_regions_only(image, labels):
    picture = pictures.overlay(image, labels, PALETTE, IGNORE, alpha=0.0)
    lines = (picture != image).any(axis=2)
    expected = np.zeros((6, 8), dtype=bool)
    expected[1:, 3] = True  # between the classes
    expected[0] = True  # void above both
    assert lines.tolist() == expected.tolist()


def test_errors_are_red_and_void_is_cream(image, labels):
    prediction = np.zeros_like(labels)
    picture = pictures.errors(image, labels, prediction, IGNORE)
    assert (picture[0] == pictures.VOID).all()
    assert picture[3, 1].tolist() == [170, 170, 170]
    red, green, _ = picture[3, 6]
    assert red > 200 > 100 > green


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 13])
def test_images_of_any_number_of_channels_can_be_shown(channels, labels):
    image = np.full((6, 8, channels), 7, dtype=np.uint8)
    assert pictures.as_rgb(image).shape == (6, 8, 3)
    assert pictures.overlay(image, labels, PALETTE, IGNORE).shape == (6, 8, 3)


def test_grey_images_stay_grey():
    assert pictures.as_rgb(np.full((1, 1, 1), 9, dtype=np.uint8)).tolist() == [[[9, 9, 9]]]
    assert pictures.as_rgb(np.full((1, 1), 9, dtype=np.uint8)).tolist() == [[[9, 9, 9]]]


@pytest.mark.parametrize(
    ("shape", "tile"),
    [((6, 8), (192, 256)), ((100, 60), (300, 180)), ((300, 300), (300, 300)), ((1024, 2048), (320, 640))],
)
def test_panel_brings_tiles_to_a_readable_size(shape, tile):
    image, labels = np.zeros((*shape, 3), dtype=np.uint8), np.zeros(shape, dtype=np.uint8)
    four = pictures.panel(image, labels, labels, PALETTE, IGNORE)
    three = pictures.panel(image, labels, labels, PALETTE, IGNORE, with_errors=False)
    two = pictures.panel(image, None, labels, PALETTE, IGNORE)
    for picture, tiles in ((four, 4), (three, 3), (two, 2)):
        caption = pictures.FONT_SIZE + 6
        assert picture.shape == (
            tile[0] + caption + 2 * pictures.GAP,
            tiles * (tile[1] + pictures.GAP) + pictures.GAP,
            3,
        )


def test_panel_enlarges_labels_without_inventing_any(image, labels):
    picture = pictures.panel(image, labels, labels, PALETTE, IGNORE)
    errors = picture[-pictures.GAP - 192 : -pictures.GAP, -pictures.GAP - 256 : -pictures.GAP]
    assert (errors[:32] == pictures.VOID).all()
    assert not (errors[32:] == pictures.VOID).all(axis=2).any()


def test_title_makes_room_above_and_is_shortened_to_the_width(image, labels):
    plain = pictures.panel(image, None, labels, PALETTE, IGNORE)
    titled = pictures.panel(image, None, labels, PALETTE, IGNORE, title="folder/" * 100 + "name")
    assert titled.shape[0] > plain.shape[0]
    assert titled.shape[1] == plain.shape[1]


def test_sheet_places_pictures_row_by_row():
    one, two, three = (np.full((2, 3 + n, 3), n, dtype=np.uint8) for n in (1, 2, 3))
    sheet = pictures.sheet([one, two, three], columns=2)
    assert sheet.shape == (4, 6 + 5, 3)
    assert (sheet[:2, :4] == 1).all()
    assert (sheet[:2, 6:] == 2).all()
    assert (sheet[2:, :6] == 3).all()
    assert (sheet[2:, 6:] == pictures.PAPER).all()


def test_sheet_of_nothing_is_refused():
    with pytest.raises(ValueError, match="0 pictures"):
        pictures.sheet([], columns=2)


def test_legend_shows_every_colour_within_its_width():
    legend = pictures.legend(["road", "sky", "pedestrian crossing"], PALETTE, width=300)
    shown = {tuple(colour) for colour in legend.reshape(-1, 3).tolist()}
    assert {*PALETTE, pictures.VOID} <= shown
    assert legend.shape[1] <= 300


@pytest.mark.parametrize(("high", "mode"), [(255, "L"), (300, "I;16")])
def test_index_png_reads_back(tmp_path, high, mode):
    labels = np.array([[0, 1], [2, high]], dtype=np.int64)
    pictures.index_png(labels).save(tmp_path / "map.png")
    with Image.open(tmp_path / "map.png") as png:
        assert png.mode == mode
        assert np.array(png).tolist() == labels.tolist()


def test_palette_png_reads_back_as_indices_and_shows_colours(tmp_path, labels):
    pictures.palette_png(labels, PALETTE, IGNORE).save(tmp_path / "map.png")
    with Image.open(tmp_path / "map.png") as png:
        assert png.mode == "P"
        assert np.array(png).tolist() == labels.tolist()
        shown = np.array(png.convert("RGB"))
    assert shown.tolist() == pictures.colorize(labels, PALETTE, IGNORE).tolist()


@pytest.mark.parametrize("label", [-1, 70000])
def test_labels_that_do_not_fit_a_file_are_refused(label):
    with pytest.raises(ValueError, match=rf"\[{label}, {label}\]; this file holds 0..65535"):
        pictures.index_png(np.array([[label]]))


def test_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, image):
    file = tmp_path / "picture.png"
    file.write_bytes(b"old")

    def no_replace(*_):
        raise OSError("no space left")

    monkeypatch.setattr(pictures.os, "replace", no_replace)
    with pytest.raises(OSError, match="no space"):
        pictures.save_picture(file, image)
    assert file.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [file]
