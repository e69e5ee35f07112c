"""Pictures too large for memory: read, predicted and written block by block, and gone on with after a stop.

The labels of finished blocks lie in a folder beside the products, with a note of how far it went. When all are there
the products are written from them, and the folder is removed. The labels are those of `inference=slide` on the whole
picture, whatever the memory.
"""

import contextlib
import errno
import hashlib
import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segtrain.data.raster import CACHE, Raster, create_raster, open_raster
from segtrain.data.reading import MAX_PIXELS
from segtrain.engine.memory_use import peak_resident, reset_peaks
from segtrain.engine.progress import Progress
from segtrain.engine.whole_files import beside, rename, sync
from segtrain.errors import ConfigError, DataError
from segtrain.inference import Predictor, SlidingWindow, label_map
from segtrain.inference.blocks import block_bytes, block_size, grid, pixel_bytes, whole_bytes
from segtrain.predict.labels_on_disk import STRIP, LabelsOnDisk
from segtrain.predict.pipeline import Prepare
from segtrain.predict.products import Places, writing
from segtrain.report.look import Look
from segtrain.types import Area, DataFacts

LARGE_PRODUCTS = ("index", "palette", "overlay")
TILE = 2048  # pixels of a strip that are drawn at once
SHARE = 0.75  # of the free memory that blocks may plan with; the rest is for what allocators keep
MARGIN = 64 * 2**20


@dataclass(frozen=True)
class LargePicture:
    """One picture, and all that its prediction needs.

    Attributes:
        path: its file.
        name: of its products, without suffix.
        places: where they go.
        look: of the overlay.
        predictor: whose strategy is a `SlidingWindow` with a budget of memory.
        facts: of the data.
        prepare: what evaluation does to an image; here to each block.
        identity: what the labels depend on besides the picture, the windows and the facts.
    """

    path: Path
    name: str
    places: Places
    look: Look
    predictor: Predictor
    facts: DataFacts
    prepare: Prepare
    identity: Mapping[str, Any]

    @property
    def windows(self) -> SlidingWindow:
        assert isinstance(self.predictor.strategy, SlidingWindow)
        return self.predictor.strategy

    @property
    def memory(self) -> int:
        assert self.windows.memory is not None
        return self.windows.memory


def is_large(path: Path, predictor: Predictor, facts: DataFacts) -> bool:
    """Whether a picture has to be predicted in blocks: at once it would take half of the budget, if there is one.

    One of more pixels than are ever read at once is large too. A file that cannot be opened is not: whoever reads it
    will say what is wrong with it.

    Raises:
        ConfigError: rasterio is not installed.
    """
    windows = predictor.strategy
    if not isinstance(windows, SlidingWindow) or windows.memory is None:
        return False
    with contextlib.suppress(DataError), open_raster(path) as raster:
        whole = whole_bytes(raster.area, facts.num_classes, _pixel_bytes(raster, facts))
        return whole > windows.memory // 2 or raster.height * raster.width > MAX_PIXELS
    return False


def check_large(places: Places, look: Look, facts: DataFacts) -> None:
    """Raises ConfigError where something is wanted that blocks cannot give; asked before anything is predicted."""
    others = [product for product in places.wanted if product not in LARGE_PRODUCTS]
    if others:
        raise ConfigError(
            f"save={others[0]}: of a picture that is predicted in blocks there can be {', '.join(LARGE_PRODUCTS)}"
        )
    for key in ("legend", "side_by_side"):
        if getattr(look, key):
            raise ConfigError(f"{key}=true: not of a picture that is predicted in blocks; leave it out")
    if facts.num_classes > 256:
        raise ConfigError(
            f"inference.memory: blocks have labels of 8 bits, the model {facts.num_classes} classes; set it to null"
        )


def predict_large(picture: LargePicture) -> None:
    """Predicts one picture, or goes on with it.

    Raises:
        ConfigError: the budget holds no block.
        DataError: the picture cannot be read, or has other channels or values than the data.
        MachineError: the disk is full.
    """
    output = picture.places.output
    with open_raster(picture.path) as raster:
        raster.check(picture.facts.in_channels, picture.facts.value_range)
        if raster.orientation != 1:
            raise DataError(
                f"{picture.path}: turned by its orientation {raster.orientation}, which blocks do not follow; "
                "turn its pixels first"
            )
        labels = LabelsOnDisk(output / f".{picture.name.replace('/', '_')}.blocks", raster.area)
        with writing(output):
            labels.begin(_key(picture), picture.memory, lambda area: _block_size(picture, raster, area))
            blocks = labels.blocks
            with Progress(
                f"predict {picture.path.name}", len(blocks), initial=labels.done, unit="block", line_every=1
            ) as progress:
                for block in blocks[labels.done :]:
                    labels.write(block, _predict_block(picture, raster, block))
                    progress.advance()
            for product in picture.places.wanted:
                _write_product(picture, raster, labels, product)
            labels.remove()


def _predict_block(picture: LargePicture, raster: Raster, block: Area) -> NDArray[np.uint8]:
    """[block.height, block.width]: the labels of a block, which are those it has in the whole picture."""
    windows, facts = picture.windows, picture.facts
    seen = windows.seen_from(block, raster.area)
    image = raster.read(seen, facts.in_channels, facts.value_range)
    pixels = picture.prepare(image, f"{picture.path} (rows {seen.top} to {seen.bottom})")
    del image

    def crop(window: Area) -> Tensor:
        rows = slice(window.top - seen.top, window.bottom - seen.top)
        return pixels[:, :, rows, window.left - seen.left : window.right - seen.left]

    logits = picture.predictor.logits_of(block, crop, raster.area)
    return label_map(logits, facts.threshold)[0].to(torch.uint8).cpu().numpy()


def _block_size(picture: LargePicture, raster: Raster, area: Area) -> tuple[int, int]:
    """As large as the budget allows, after what the process takes without any block has been seen.

    Raises:
        ConfigError: nothing is left for a block.
    """
    windows, facts = picture.windows, picture.facts
    window = Area(0, 0, min(windows.height, raster.height), min(windows.width, raster.width))
    reset_peaks(picture.predictor.hardware.device)
    crops = torch.zeros(windows.batch_size, facts.in_channels, window.height, window.width, dtype=torch.uint8)
    picture.predictor.logits_of(window, lambda _: crops, window)
    fixed = (peak_resident() or 2**30) + CACHE + MARGIN
    source = _pixel_bytes(raster, facts)
    size = block_size(windows, area, facts.num_classes, source, int(SHARE * (picture.memory - fixed)))
    if size is None:
        least = fixed + int(block_bytes(windows, window.height, window.width, facts.num_classes, source) / SHARE)
        raise ConfigError(
            f"inference.memory: {picture.memory / 2**20:.0f} MiB hold no block of {picture.path}: the process itself "
            f"takes {fixed / 2**20:.0f} MiB; give {-(-least // 2**20)}MiB or more, or lower inference.batch_size"
        )
    return size


def _pixel_bytes(raster: Raster, facts: DataFacts) -> int:
    return pixel_bytes(len(raster.bands(facts.in_channels)), raster.dtype.itemsize, facts.in_channels)


def _key(picture: LargePicture) -> str:
    """Differs where labels of an earlier run may not be gone on with."""
    stat, windows = picture.path.stat(), picture.windows
    facts = {
        "picture": [str(picture.path.resolve()), stat.st_size, stat.st_mtime_ns],
        "windows": [windows.height, windows.width, windows.stride, windows.blend, windows.sigma],
        "facts": asdict(picture.facts),
        "identity": dict(picture.identity),
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()


def _write_product(picture: LargePicture, raster: Raster, labels: LabelsOnDisk, product: str) -> None:
    """A TIFF of labels, of labels with their colours, or of the picture under its colours.

    It is read back before it gets its name: where the disk is full GDAL may close a file as if all were well.
    """
    facts, target = picture.facts, picture.places.large_path(product, picture.name)
    target.parent.mkdir(parents=True, exist_ok=True)
    written: list[tuple[Area, int]] = []
    with beside(target) as temporary:
        with create_raster(temporary, raster, 3 if product == "overlay" else 1, STRIP) as file:
            file.update_tags(class_names=json.dumps(facts.class_names))
            if product == "palette":
                file.write_colormap(1, dict(enumerate(facts.palette)))
            for tile, values in _tiles(labels):
                drawn = _drawn(picture, raster, tile, values) if product == "overlay" else values[None]
                file.write(drawn, window=((tile.top, tile.bottom), (tile.left, tile.right)))
                written.append((tile, zlib.crc32(drawn.tobytes())))
        sync(temporary)
        _check_written(temporary, written)
        rename(temporary, target)


def _tiles(labels: LabelsOnDisk) -> Iterator[tuple[Area, NDArray[np.uint8]]]:
    for strip, values in labels.strips():
        for tile in grid(strip, STRIP, TILE):
            yield tile, values[:, tile.columns]


def _drawn(picture: LargePicture, raster: Raster, tile: Area, labels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """[3, tile.height, tile.width]: the picture under its colours."""
    facts = picture.facts
    image = raster.read(tile, facts.in_channels, facts.value_range)
    return np.moveaxis(picture.look.overlay(image, labels, facts.palette, facts.ignore_index), -1, 0)


def _check_written(path: Path, written: Sequence[tuple[Area, int]]) -> None:
    """Raises OSError where the file does not hold what was written to it."""
    try:
        with open_raster(path) as raster:
            for tile, checksum in written:
                values = raster.file.read(window=((tile.top, tile.bottom), (tile.left, tile.right)))
                if zlib.crc32(values.tobytes()) != checksum:
                    raise DataError(f"rows {tile.top} to {tile.bottom} are others")
    except Exception as error:
        raise OSError(errno.ENOSPC, f"{path.name} is not whole; the disk may be full") from error
