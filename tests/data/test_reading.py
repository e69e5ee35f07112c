import numpy as np
import pytest
from PIL import Image

from segtrain.data import reading
from segtrain.data.reading import read_image, read_mask
from segtrain.errors import ConfigError, DataError


@pytest.fixture
def photo(tmp_path, save):
    values = np.random.default_rng(0).integers(0, 255, (40, 60, 3))
    return save(tmp_path / "photo.jpg", values, quality=90)


def test_an_image_is_read_as_height_width_rgb(tmp_path, save):
    path = save(tmp_path / "a.png", [[[1, 2, 3], [4, 5, 6]]])
    assert read_image(path, in_channels=3).tolist() == [[[1, 2, 3], [4, 5, 6]]]


def test_a_grey_image_is_repeated_for_three_channels(tmp_path, save):
    path = save(tmp_path / "a.png", [[7, 8]])
    assert read_image(path, in_channels=3).tolist() == [[[7, 7, 7], [8, 8, 8]]]


def test_an_rgb_image_becomes_luma_for_one_channel(tmp_path, save):
    path = save(tmp_path / "a.png", [[[255, 0, 0], [0, 255, 0]]])
    assert read_image(path, in_channels=1).tolist() == [[[76], [150]]]  # 0.299 * 255, 0.587 * 255


def test_a_palette_image_is_read_in_its_colours(tmp_path):
    Image.new("RGB", (1, 1), (10, 20, 30)).quantize(4).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png", in_channels=3).tolist() == [[[10, 20, 30]]]


def test_exif_orientation_turns_the_image_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying on its left side: 60 wide, 40 high, shown 40 wide, 60 high
    Image.new("RGB", (60, 40)).save(tmp_path / "a.jpg", exif=exif)
    assert read_image(tmp_path / "a.jpg", in_channels=3).shape == (60, 40, 3)


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "bmp", "webp"])
def test_a_truncated_image_is_an_error_that_names_the_file(tmp_path, suffix, save):
    path = save(tmp_path / f"photo.{suffix}", np.random.default_rng(0).integers(0, 255, (40, 60, 3)))
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    with pytest.raises(DataError, match=f"photo.{suffix}: "):
        read_image(path, in_channels=3)


def test_every_prefix_of_a_png_mask_is_read_fully_or_refused(tmp_path, save):
    values = np.arange(300).reshape(15, 20) % 7
    whole = save(tmp_path / "a.png", values).read_bytes()
    for length in range(len(whole)):
        (tmp_path / "part.png").write_bytes(whole[:length])
        try:
            assert read_mask(tmp_path / "part.png", "index").tolist() == values.tolist()
        except DataError:
            continue


@pytest.mark.parametrize(
    ("content", "reason"),
    [(None, "no such file"), (b"", "damaged, or not an image"), (b"P6 1 1 255 abc", "damaged, or not an image")],
)
def test_a_file_that_is_missing_or_no_image_is_an_error(tmp_path, content, reason):
    path = tmp_path / "a.png"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=f"a.png: {reason}"):
        read_image(path, in_channels=3)


def test_an_image_above_the_pixel_limit_is_refused_before_it_is_decoded(tmp_path, monkeypatch, save):
    path = save(tmp_path / "a.png", np.zeros((20, 10)))
    monkeypatch.setattr(reading, "MAX_PIXELS", 199)
    with pytest.raises(DataError, match="10x20 is more than 199 pixels"):
        read_image(path, in_channels=3)


def test_pil_bomb_warnings_are_errors(tmp_path, monkeypatch, save):
    path = save(tmp_path / "a.png", np.zeros((20, 10)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 150)
    with pytest.raises(DataError, match="cut it into tiles"):
        read_image(path, in_channels=3)


def test_a_stack_of_pages_is_refused(tmp_path):
    page = Image.new("L", (4, 4))
    page.save(tmp_path / "stack.tif", save_all=True, append_images=[page, page])
    with pytest.raises(DataError, match="holds 3 pages"):
        read_image(tmp_path / "stack.tif", in_channels=1)


def test_an_image_of_sixteen_bits_is_refused(tmp_path):
    Image.fromarray(np.full((2, 2), 1000, dtype=np.uint16)).save(tmp_path / "a.png")
    with pytest.raises(DataError, match="more than 8 bits"):
        read_image(tmp_path / "a.png", in_channels=1)


def test_an_index_mask_keeps_palette_indices(tmp_path):
    mask = Image.fromarray(np.array([[0, 15, 255]], dtype=np.uint8))
    mask.putpalette([9, 8, 7] * 256)
    mask.save(tmp_path / "a.png")
    assert read_mask(tmp_path / "a.png", "index").tolist() == [[0, 15, 255]]


def test_an_index_mask_keeps_values_of_sixteen_bits(tmp_path):
    Image.fromarray(np.array([[0, 300, 65535]], dtype=np.uint16)).save(tmp_path / "a.png")
    assert read_mask(tmp_path / "a.png", "index").tolist() == [[0, 300, 65535]]


def test_an_index_mask_with_several_channels_is_an_error(tmp_path, save):
    path = save(tmp_path / "a.png", [[[1, 2, 3]]])
    with pytest.raises(DataError, match="mask_format=palette"):
        read_mask(path, "index")


@pytest.mark.parametrize("values", [[[0, 1, 255]], [[[0, 0, 0], [0, 0, 9], [255, 255, 255]]]])
def test_a_binary_mask_is_one_wherever_it_is_not_zero(tmp_path, values, save):
    assert read_mask(save(tmp_path / "a.png", values), "binary").tolist() == [[0, 1, 1]]


def test_transparency_of_a_binary_mask_does_not_count(tmp_path, save):
    path = save(tmp_path / "a.png", [[[0, 0, 0, 255], [9, 0, 0, 255]]])
    assert read_mask(path, "binary").tolist() == [[0, 1]]


@pytest.mark.parametrize("values", [[[[1, 2, 3]]], [[[1, 2, 3, 255]]]])
def test_a_palette_mask_is_read_as_packed_colours(tmp_path, values, save):
    assert read_mask(save(tmp_path / "a.png", values), "palette").tolist() == [[0x010203]]


def test_a_jpeg_mask_is_refused(photo):
    with pytest.raises(DataError, match="JPEG compression alters labels"):
        read_mask(photo, "binary")


def test_an_unknown_mask_format_gets_the_nearest_name():
    with pytest.raises(ConfigError, match="did you mean 'palette'"):
        reading.check_mask_format("pallete")
