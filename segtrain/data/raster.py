"""Rasters too large for memory, of more than 8 bits or of many channels: TIFF, GeoTIFF and what else GDAL reads.

rasterio, which brings GDAL, is asked for only where such a file is met: `pip install segtrain[raster]`.
"""

import contextlib
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import TiffImagePlugin

from segtrain.errors import ConfigError, DataError, one_line
from segtrain.types import Area

CACHE = 64 * 2**20  # bytes of decoded blocks that GDAL keeps; a twentieth of the machine's memory if left alone
LUMA = (0.299, 0.587, 0.114)  # ITU-R 601, as PIL's
TOO_LARGE = "cut it into tiles; to predict it: inference=slide inference.memory=2GiB"

# What makes a picture upright, by its orientation (TIFF 6.0, tag 274; EXIF has the same numbers).
UPRIGHT: dict[int, Callable[[NDArray[np.uint8]], NDArray[np.uint8]]] = {
    1: lambda image: image,
    2: lambda image: image[:, ::-1],
    3: lambda image: image[::-1, ::-1],
    4: lambda image: image[::-1],
    5: lambda image: image.swapaxes(0, 1),
    6: lambda image: image.swapaxes(0, 1)[:, ::-1],
    7: lambda image: image.swapaxes(0, 1)[::-1, ::-1],
    8: lambda image: image.swapaxes(0, 1)[::-1],
}
ORIENTATION = 274


class Raster:
    """An open raster, read area by area.

    Args:
        path: the file, for messages.
        file: as rasterio opened it.

    Attributes:
        orientation: how a camera says that the picture is to be turned, 1 to 8 as in EXIF; `read` does not turn it.
    """

    def __init__(self, path: Path, file: Any) -> None:
        self.path = path
        self.file = file
        self.height, self.width = int(file.height), int(file.width)
        self.area = Area(0, 0, self.height, self.width)
        self.dtype = np.dtype(file.dtypes[0])
        self.orientation = _orientation(path, file)

    def bands(self, in_channels: int) -> list[int]:
        """The numbers of the bands that are the image's channels: all of them, or those that are not transparency.

        The last of four bands of 8 bits is taken for transparency by default; where four are wanted it is none.
        """
        if self.file.count == in_channels:
            return list(self.file.indexes)
        kinds = zip(self.file.indexes, self.file.colorinterp, strict=True)
        return [index for index, kind in kinds if kind.name != "alpha"]

    def read(self, area: Area, in_channels: int, value_range: tuple[float, float] | None) -> NDArray[np.uint8]:
        """An area as [height, width, in_channels] uint8, without transparency.

        Args:
            area: inside the raster.
            in_channels: the raster's own number; or 3 of a grey one, or 1 of an RGB one.
            value_range: see `to_uint8`.

        Raises:
            DataError: the raster has other channels or values, or cannot be read there.
        """
        self.check(in_channels, value_range)
        window = ((area.top, area.bottom), (area.left, area.right))
        bands = self.bands(in_channels)
        try:
            values = self.file.read(bands, window=window)
        except Exception as error:  # rasterio's errors are many, and every one is the file's
            raise DataError(f"{self.path}: unreadable or truncated ({one_line(error)}); replace the file") from error
        image = to_uint8(np.moveaxis(values, 0, -1), value_range, str(self.path))
        if in_channels == 1 and len(bands) == 3:
            return np.rint(image @ np.array(LUMA)).astype(np.uint8)[..., None]
        return np.repeat(image, 3, axis=2) if in_channels == 3 and len(bands) == 1 else image

    def check(self, in_channels: int, value_range: tuple[float, float] | None) -> None:
        """Raises DataError where `read` would."""
        if self.file.colorinterp[0].name == "palette":
            raise DataError(f"{self.path}: a raster of palette indices is no image; convert it to RGB first")
        bands = len(self.bands(in_channels))
        if (in_channels, bands) not in {(3, 1), (1, 3), (bands, bands)}:
            raise DataError(f"{self.path}: {bands} channels, the data have data.in_channels={in_channels}")
        check_depth(self.dtype, value_range, str(self.path))


@contextlib.contextmanager
def open_raster(path: str | Path) -> Iterator[Raster]:
    """A raster, closed at the end of the block.

    Raises:
        ConfigError: rasterio is not installed.
        DataError: the file is not there or none that GDAL reads.
    """
    rasterio = import_rasterio(str(path))
    try:
        with _without_georeference_warning(rasterio), rasterio.Env(GDAL_CACHEMAX=CACHE):
            file = rasterio.open(path)
    except rasterio.errors.RasterioIOError as error:
        known = "no such file" if not Path(path).exists() else f"no raster that can be read ({one_line(error)})"
        raise DataError(f"{path}: {known}") from None
    with _without_georeference_warning(rasterio), rasterio.Env(GDAL_CACHEMAX=CACHE), file:
        yield Raster(Path(path), file)


@contextlib.contextmanager
def create_raster(path: Path, like: Raster, bands: int, side: int) -> Iterator[Any]:
    """A tiled and compressed TIFF of uint8, to be written to, that lies where another raster lies on Earth.

    Args:
        path: its file.
        like: the other raster, of the same size.
        bands: how many; three are red, green and blue.
        side: of a tile, in pixels.

    Yields:
        rasterio's own file.
    """
    rasterio = import_rasterio(str(path))
    profile: dict[str, Any] = {
        "driver": "GTiff",
        "dtype": "uint8",
        "height": like.height,
        "width": like.width,
        "count": bands,
        "photometric": "rgb" if bands == 3 else "minisblack",
        "tiled": True,
        "blockxsize": side,
        "blockysize": side,
        "compress": "deflate",
        "bigtiff": "if_safer",
    }
    if like.file.crs is not None:
        profile["crs"] = like.file.crs
    if not like.file.transform.is_identity:
        profile["transform"] = like.file.transform
    with _without_georeference_warning(rasterio), rasterio.open(path, "w", **profile) as file:
        if like.file.gcps[0]:
            file.gcps = like.file.gcps
        yield file


def read_raster(
    path: str | Path, in_channels: int, value_range: tuple[float, float] | None, most_pixels: int
) -> NDArray[np.uint8]:
    """A whole raster, upright; see `Raster.read`. DataError too where it has more than `most_pixels`."""
    with open_raster(path) as raster:
        if raster.height * raster.width > most_pixels:
            raise DataError(f"{path}: {raster.width}x{raster.height} is more than {most_pixels:,} pixels; {TOO_LARGE}")
        return np.ascontiguousarray(UPRIGHT[raster.orientation](raster.read(raster.area, in_channels, value_range)))


def import_rasterio(what: str) -> Any:
    """The package. Raises ConfigError, naming what needs it, where it is not installed."""
    try:
        import rasterio
    except ImportError:
        raise ConfigError(f"{what}: reading it needs rasterio: pip install segtrain[raster]") from None
    return rasterio


def check_depth(dtype: np.dtype[Any], value_range: tuple[float, float] | None, name: str) -> None:
    """Raises DataError unless values of `dtype` are known to fit 8 bits."""
    if dtype != np.uint8 and value_range is None:
        raise DataError(
            f"{name}: {dtype} values, more than 8 bits a channel; say by data.value_range=[low, high] which become 0 "
            "and 255, or convert it to 8 bits"
        )


def to_uint8(values: NDArray[Any], value_range: tuple[float, float] | None, name: str) -> NDArray[np.uint8]:
    """Values as 0..255.

    Args:
        values: of any shape.
        value_range: what becomes 0 and 255; in between linear and rounded, beyond it cut off, not-a-number 0. Values
            of 8 bits stay as they are. None: there are no others.
        name: for messages.

    Raises:
        DataError: they are not.
    """
    check_depth(values.dtype, value_range, name)
    if value_range is None or values.dtype == np.uint8:
        return values.astype(np.uint8, copy=False)
    low, high = value_range
    scaled = (values.astype(np.float32) - low) * (255 / (high - low))
    return np.rint(np.nan_to_num(scaled, nan=0.0).clip(0, 255)).astype(np.uint8)


def _orientation(path: Path, file: Any) -> int:
    """1 to 8; GDAL shows that of a JPEG, and keeps that of a TIFF to itself. 1 where the tag cannot be read."""
    if file.driver != "GTiff":
        shown = str(file.tags().get("EXIF_Orientation", "1"))
        return int(shown) if shown in map(str, UPRIGHT) else 1
    found: Any = 1
    with contextlib.suppress(Exception), open(path, "rb") as stream:  # tags that PIL cannot read fail in any way
        header = stream.read(8)
        header += stream.read(8) if header[2] == 43 else b""  # BigTIFF
        tags = TiffImagePlugin.ImageFileDirectory_v2(header)
        stream.seek(tags.next)
        tags.load(stream)
        found = tags.get(ORIENTATION, 1)
    return int(found) if found in UPRIGHT else 1


@contextlib.contextmanager
def _without_georeference_warning(rasterio: Any) -> Iterator[None]:
    """A photograph lies nowhere on Earth, and need not be told so."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        yield
