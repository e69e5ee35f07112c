"""Images and masks from files, by PIL.

PIL raises where a file is truncated, keeps palette indices as they are, and can be told which formats to try.
`cv2.imread` does none of these: it returns the upper half of a truncated JPEG as success and turns palette masks
into colours.
"""

import warnings
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from segtrain.data.raster import TOO_LARGE, check_depth, read_raster
from segtrain.errors import ConfigError, DataError, nearest

MaskFormat = Literal["index", "binary", "palette"]

IMAGE_FORMATS = ("JPEG", "PNG", "TIFF", "BMP", "WEBP")
LOSSLESS_FORMATS = ("PNG", "TIFF", "BMP", "GIF")
RASTER_SUFFIXES = frozenset({".tif", ".tiff"})
IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp"})
MASK_SUFFIXES = frozenset({".png", ".tif", ".tiff", ".bmp", ".gif"})

# PIL's own limit, a 256 MiB RGB picture, kept where another library has lifted PIL's.
MAX_PIXELS = 89_478_485


def read_image(path: str | Path, in_channels: int, value_range: tuple[float, float] | None = None) -> NDArray[np.uint8]:
    """An image file as [H, W, in_channels] uint8, upright (EXIF orientation applied).

    A TIFF of many channels, and TIFFs and PNGs where there is a `value_range`, are read by rasterio; others by PIL.

    Args:
        path: a JPEG, PNG, TIFF, BMP or WEBP file.
        in_channels: 3 (converted to RGB), 1 (converted to grey, ITU-R 601 luma), or the file's own number. Transparency
            is dropped.
        value_range: of files of more than 8 bits a channel, see `to_uint8`; files of 8 bits are read as they are. None:
            there are no others.

    Raises:
        ConfigError: rasterio is needed and not installed.
        DataError: missing, unreadable, truncated, of another format, of more than 8 bits a channel without a
            `value_range`, of other channels, of several pages, or of more than `MAX_PIXELS` pixels.
    """
    suffix = Path(path).suffix.lower()
    if suffix in RASTER_SUFFIXES and (in_channels not in (1, 3) or value_range is not None):
        return read_raster(path, in_channels, value_range, MAX_PIXELS)
    if suffix == ".png" and value_range is not None:  # of 16 bits in colour PIL keeps the upper half
        return read_raster(path, in_channels, value_range, MAX_PIXELS)
    image = ImageOps.exif_transpose(_load(path, IMAGE_FORMATS))
    if image.mode.startswith(("I", "F")):
        check_depth(np.asarray(image).dtype, None, str(path))
    if in_channels not in (1, 3):
        return _of_channels(np.atleast_3d(np.asarray(image)), in_channels, path)
    array = np.asarray(image.convert("L" if in_channels == 1 else "RGB"))
    return array[..., None] if in_channels == 1 else array


def _of_channels(image: NDArray[np.uint8], in_channels: int, path: str | Path) -> NDArray[np.uint8]:
    if image.shape[2] != in_channels:
        raise DataError(f"{path}: {image.shape[2]} channels, the data have data.in_channels={in_channels}")
    return image


def read_mask(path: str | Path, mask_format: MaskFormat) -> NDArray[np.integer]:
    """A mask file as [H, W] source values, which a `LabelMap` then turns into class indices.

    Args:
        path: a PNG, TIFF, BMP or GIF file. JPEG and WEBP are refused: their compression alters labels.
        mask_format: what a pixel says.
            index: the value as it stands, of one channel or of a palette image's indices (uint8, uint16 or int32).
            binary: 1 where any channel is not zero, else 0 (uint8).
            palette: a colour, as the int32 0xRRGGBB, whether the file is RGB, RGBA or has a palette itself.

    Raises:
        DataError: as `read_image`; or `index` of a file with several channels.
    """
    image = _load(path, LOSSLESS_FORMATS)
    if mask_format == "palette":
        rgb = np.asarray(image.convert("RGB"), dtype=np.int32)
        return (rgb[..., 0] << 16) | (rgb[..., 1] << 8) | rgb[..., 2]
    if mask_format == "binary":
        values = np.asarray(image.convert("RGB") if image.mode in ("RGBA", "LA", "PA") else image) != 0
        return (values.any(axis=-1) if values.ndim == 3 else values).astype(np.uint8)
    if image.mode not in ("1", "L", "P", "I") and not image.mode.startswith("I;16"):
        raise DataError(
            f"{path}: a mask of class indices has one channel, this one has mode {image.mode}; "
            "if its colours say the class, set data.mask_format=palette"
        )
    values = np.asarray(image)
    return values.astype(np.uint8) if values.dtype == bool else values


def check_mask_format(mask_format: str) -> MaskFormat:
    """`mask_format` itself; ConfigError where it is none."""
    for known in get_args(MaskFormat):
        if mask_format == known:
            return known
    known_formats = get_args(MaskFormat)
    hint = nearest(mask_format, known_formats)
    raise ConfigError(f"data.mask_format={mask_format}: choose one of {', '.join(known_formats)}{hint}")


def _load(path: str | Path, formats: tuple[str, ...]) -> Image.Image:
    """The decoded picture. Every failure of PIL's decoders is the file's, so every `Exception` becomes a DataError."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=(*IMAGE_FORMATS, "GIF")) as image:
                pages = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)  # MPO: a phone's JPEG with extras
                problem = _refusal(image, pages, formats)
                if problem is None:
                    image.load()
                    return image
    except FileNotFoundError:
        problem = "no such file"
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        problem = f"more than {MAX_PIXELS:,} pixels; {TOO_LARGE}"
    except Image.UnidentifiedImageError:
        problem = f"damaged, or not an image of a known format ({', '.join(formats)})"
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        problem = f"unreadable or truncated ({reason}); replace the file or remove it from its split"
    raise DataError(f"{path}: {problem}")


def _refusal(image: Image.Image, pages: int, formats: tuple[str, ...]) -> str | None:
    """Why an opened, not yet decoded picture is not read; None where it is."""
    width, height = image.size
    if width * height > MAX_PIXELS:
        return f"{width}x{height} is more than {MAX_PIXELS:,} pixels; {TOO_LARGE}"
    if pages > 1:
        return f"holds {pages} pages; save each as a file of its own"
    if image.format not in (*formats, "MPO"):
        if formats == LOSSLESS_FORMATS:
            return f"{image.format} compression alters labels; masks are {', '.join(formats)} files"
        return f"{image.format} is not a known image format ({', '.join(formats)})"
    return None
