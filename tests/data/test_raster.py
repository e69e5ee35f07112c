"""Rasters of many channels, of 16 bits, and too large for memory."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segtrain.data.raster import open_raster, to_uint8
from segtrain.data.reading import read_image
from segtrain.errors import DataError
from segtrain.types import Area

rasterio = pytest.importorskip("rasterio")
pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")


def write(path: Path, values: np.ndarray, **profile: object) -> Path:
    """`values` [bands, H, W] as a TIFF."""
    bands, height, width = values.shape
    with rasterio.open(
        path, "w", driver="GTiff", dtype=values.dtype, count=bands, height=height, width=width, **profile
    ) as file:
        file.write(values)
    return path


@pytest.fixture
def random() -> np.random.Generator:
    return np.random.default_rng(0)


def test_an_area_has_the_pixels_it_has_in_the_whole(tmp_path, random):
    values = random.integers(0, 256, (3, 40, 70), dtype=np.uint8)
    path = write(tmp_path / "a.tif", values, tiled=True, blockxsize=16, blockysize=16)
    with open_raster(path) as raster:
        assert (raster.height, raster.width) == (40, 70)
        area = Area(5, 30, 21, 70)
        assert np.array_equal(raster.read(area, 3, None), np.moveaxis(values, 0, -1)[5:21, 30:70])


def test_sixteen_bits_become_eight_by_the_range_by_hand():
    values = np.array([0, 100, 101, 150, 200, 201, 65535], dtype=np.uint16)
    assert to_uint8(values, (100, 200), "a").tolist() == [0, 0, 3, 128, 255, 255, 255]  # 127.5 to the even number
    assert to_uint8(np.array([np.nan, -1.0, 0.5, 2.0]), (0.0, 1.0), "a").tolist() == [0, 0, 128, 255]


def test_five_channels_of_sixteen_bits_are_read_as_the_data_config_says(tmp_path, random):
    values = random.integers(0, 1000, (5, 9, 11), dtype=np.uint16)
    image = read_image(write(tmp_path / "a.tif", values), 5, (0, 1000))
    expected = np.rint(np.moveaxis(values, 0, -1).astype(np.float32) * (255 / 1000))
    assert image.shape == (9, 11, 5)
    assert np.array_equal(image, expected)


def test_rgb_of_sixteen_bits_keeps_its_colours(tmp_path):
    values = np.zeros((3, 4, 4), dtype=np.uint16)
    values[0], values[2] = 65535, 32768
    assert read_image(write(tmp_path / "a.tif", values), 3, (0, 65535))[0, 0].tolist() == [255, 0, 128]


def test_values_of_eight_bits_stay_as_they_are_beside_files_of_sixteen(tmp_path):
    path = write(tmp_path / "a.tif", np.full((1, 3, 3), 200, dtype=np.uint8))
    assert read_image(path, 1, (0, 65535))[0, 0].tolist() == [200]
    Image.new("RGB", (4, 4), (200, 1, 2)).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png", 3, (0, 65535))[0, 0].tolist() == [200, 1, 2]


def test_colour_of_sixteen_bits_out_of_a_png_and_a_tiff_are_one(tmp_path, random):
    values = random.integers(0, 4096, (3, 8, 9), dtype=np.uint16)
    with rasterio.open(tmp_path / "a.png", "w", driver="PNG", dtype="uint16", count=3, height=8, width=9) as file:
        file.write(values)
    tiff = read_image(write(tmp_path / "a.tif", values), 3, (0, 4095))
    assert np.array_equal(read_image(tmp_path / "a.png", 3, (0, 4095)), tiff)
    assert tiff.max() > 250


def test_four_channels_of_which_the_last_is_taken_for_transparency_are_four_where_four_are_wanted(tmp_path, random):
    values = random.integers(0, 256, (4, 5, 6), dtype=np.uint8)
    path = write(tmp_path / "a.tif", values)
    assert np.array_equal(read_image(path, 4), np.moveaxis(values, 0, -1))
    with open_raster(path) as raster:
        assert raster.read(raster.area, 3, None).shape == (5, 6, 3)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_tiff_is_made_upright_as_pil_does(tmp_path, random, orientation):
    values = random.integers(0, 256, (6, 9, 3), dtype=np.uint8)
    path = tmp_path / "a.tif"
    Image.fromarray(values).save(path, tiffinfo={274: orientation})
    with open_raster(path) as raster:
        assert raster.orientation == orientation
    assert np.array_equal(read_image(path, 3, (0, 1)), read_image(path, 3))


def test_grey_of_sixteen_bits_out_of_a_png(tmp_path):
    Image.fromarray(np.array([[0, 500, 1000]], dtype=np.uint16)).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png", 1, (0, 1000)).tolist() == [[[0], [128], [255]]]
    assert read_image(tmp_path / "a.png", 3, (0, 1000)).tolist() == [[[0] * 3, [128] * 3, [255] * 3]]


def test_more_than_eight_bits_without_a_range_name_the_key(tmp_path):
    path = write(tmp_path / "a.tif", np.zeros((4, 4, 4), dtype=np.uint16))
    with pytest.raises(DataError, match=r"a\.tif: uint16 values, more than 8 bits a channel; say by data\.value_range"):
        read_image(path, 4)


def test_other_channels_than_the_datas_are_named(tmp_path):
    path = write(tmp_path / "a.tif", np.zeros((4, 4, 4), dtype=np.uint8), photometric="minisblack", alpha="unspecified")
    with pytest.raises(DataError, match=r"4 channels, the data have data\.in_channels=5"):
        read_image(path, 5)
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"3 channels, the data have data\.in_channels=5"):
        read_image(tmp_path / "a.png", 5)


def test_transparency_is_no_channel(tmp_path):
    path = write(tmp_path / "a.tif", np.full((4, 4, 4), 9, dtype=np.uint8), photometric="rgb", alpha="yes")
    with open_raster(path) as raster:
        assert raster.read(raster.area, 3, None).shape == (4, 4, 3)


def test_grey_and_colour_are_made_of_each_other(tmp_path):
    values = np.zeros((3, 2, 2), dtype=np.uint8)
    values[0] = 255
    with open_raster(write(tmp_path / "a.tif", values)) as raster:
        assert raster.read(raster.area, 1, None)[0, 0].tolist() == [76]  # 0.299 * 255, as PIL
    with open_raster(write(tmp_path / "b.tif", values[:1])) as raster:
        assert raster.read(raster.area, 3, None)[0, 0].tolist() == [255, 255, 255]


@pytest.mark.parametrize("damage", ["missing", "text", "truncated"])
def test_what_cannot_be_read_is_named(tmp_path, damage, random):
    path = tmp_path / "a.tif"
    if damage == "text":
        path.write_text("no raster")
    if damage == "truncated":
        write(path, random.integers(0, 256, (3, 100, 100), dtype=np.uint8), compress="deflate")
        path.write_bytes(path.read_bytes()[:-9000])
    with pytest.raises(DataError, match=r"a\.tif"), open_raster(path) as raster:
        raster.read(raster.area, 3, None)


def test_a_raster_of_palette_indices_is_refused(tmp_path):
    with rasterio.open(
        tmp_path / "a.tif", "w", driver="GTiff", dtype="uint8", count=1, height=4, width=4, photometric="palette"
    ) as file:
        file.write(np.zeros((1, 4, 4), dtype=np.uint8))
        file.write_colormap(1, {0: (255, 0, 0, 255)})
    with pytest.raises(DataError, match="palette"), open_raster(tmp_path / "a.tif") as raster:
        raster.read(raster.area, 3, None)
