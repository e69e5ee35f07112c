"""Rasters too large for memory, of more than 8 bits or of many channels: TIFF, GeoTIFF and what else GDAL reads.

rasterio, which brings GDAL, is asked for only where such a file is met: `pip install segtrain[raster]`.
"""

import contextlib
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segtrain.errors import ConfigError, DataError, one_line
from segtrain.types import Area

CACHE = 64 * 2**20  # bytes of decoded blocks that GDAL keeps; a twentieth of the machine's memory if left alone
LUMA = (0.299, 0.587, 0.114)  # ITU-R 601, as PIL's


class Raster:
    """An open raster, read area by area.

    Args:
        path: the file, for messages.
        file: as rasterio opened it.
    """

    def __init__(self, path: Path, file: Any) -> None:
        self.path = path
        self.file = file
        self.height, self.width = int(file.height), int(file.width)
        self.area = Area(0, 0, self.height, self.width)
        self.dtype = np.dtype(file.dtypes[0])
        alpha = [kind.name == "alpha" for kind in file.colorinterp]
        self.bands = [index for index, is_alpha in zip(file.indexes, alpha, strict=True) if not is_alpha]
        if file.colorinterp[0].name == "palette":
            raise DataError(f"{path}: a raster of palette indices is no image; convert it to RGB first")

    @property
    def is_turned(self) -> bool:
        """Whether a camera says that the picture is to be shown turned, which GDAL does not do."""
        return str(self.file.tags().get("EXIF_Orientation", "1")) not in ("0", "1")

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
        try:
            values = self.file.read(self.bands, window=window)
        except Exception as error:  # rasterio's errors are many, and every one is the file's
            raise DataError(f"{self.path}: unreadable or truncated ({one_line(error)}); replace the file") from error
        image = to_uint8(np.moveaxis(values, 0, -1), value_range, str(self.path))
        if in_channels == 1 and len(self.bands) == 3:
            return np.rint(image @ np.array(LUMA)).astype(np.uint8)[..., None]
        return np.repeat(image, 3, axis=2) if in_channels == 3 and len(self.bands) == 1 else image

    def check(self, in_channels: int, value_range: tuple[float, float] | None) -> None:
        """Raises DataError where `read` would."""
        if (in_channels, len(self.bands)) not in {(3, 1), (1, 3), (len(self.bands), len(self.bands))}:
            raise DataError(f"{self.path}: {len(self.bands)} channels, the data have data.in_channels={in_channels}")
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
        profile |= {"crs": like.file.crs, "transform": like.file.transform}
    with _without_georeference_warning(rasterio), rasterio.open(path, "w", **profile) as file:
        if like.file.gcps[0]:
            file.gcps = like.file.gcps
        yield file


def read_raster(
    path: str | Path, in_channels: int, value_range: tuple[float, float] | None, most_pixels: int
) -> NDArray[np.uint8]:
    """A whole raster; see `Raster.read`. DataError too where it has more than `most_pixels`."""
    with open_raster(path) as raster:
        if raster.height * raster.width > most_pixels:
            raise DataError(f"{path}: {raster.width}x{raster.height} is more than {most_pixels:,} pixels")
        return raster.read(raster.area, in_channels, value_range)


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
        value_range: what becomes 0 and 255; in between linear and rounded, beyond it cut off, not-a-number 0. None:
            the values are 8 bits wide.
        name: for messages.

    Raises:
        DataError: they are not.
    """
    check_depth(values.dtype, value_range, name)
    if value_range is None:
        return values.astype(np.uint8, copy=False)
    low, high = value_range
    scaled = (values.astype(np.float32) - low) * (255 / (high - low))
    return np.rint(np.nan_to_num(scaled, nan=0.0).clip(0, 255)).astype(np.uint8)


@contextlib.contextmanager
def _without_georeference_warning(rasterio: Any) -> Iterator[None]:
    """A photograph lies nowhere on Earth, and need not be told so."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        yield
