"""Pictures too large for memory: read, predicted and written block by block, and gone on with after a stop.

The labels of finished blocks lie in a folder beside the products, with a note of how far it went. When all are there
the products are written from them, and the folder is removed. The labels are those of `inference=slide` on the whole
picture, whatever the memory.
"""

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segtrain.data.raster import CACHE, Raster, create_raster, open_raster
from segtrain.engine.memory_use import peak_resident, reset_peaks
from segtrain.engine.progress import Progress
from segtrain.engine.whole_files import hidden, sync_folder
from segtrain.errors import ConfigError, DataError, MachineError
from segtrain.inference import Predictor, SlidingWindow, label_map
from segtrain.inference.blocks import block_bytes, block_size, grid
from segtrain.predict.labels_on_disk import STRIP, LabelsOnDisk
from segtrain.predict.pipeline import Prepare
from segtrain.report.pictures import overlay
from segtrain.types import Area, DataFacts

LARGE_PRODUCTS = ("index", "palette", "overlay")
SHARE = 0.75  # of the free memory that blocks may plan with; the rest is for what allocators keep
MARGIN = 64 * 2**20


@dataclass(frozen=True)
class LargePicture:
    """One picture, and all that its prediction needs.

    Attributes:
        path: its file.
        name: of its products, without suffix.
        output: the folder of all products, each in a subfolder.
        products: some of `LARGE_PRODUCTS`.
        predictor: whose strategy is a `SlidingWindow` with a budget of memory.
        facts: of the data.
        prepare: what evaluation does to an image; here to each block.
        alpha: opacity of the colours in the overlay.
        identity: what the labels depend on besides the picture, such as the checkpoint.
    """

    path: Path
    name: str
    output: Path
    products: Sequence[str]
    predictor: Predictor
    facts: DataFacts
    prepare: Prepare
    alpha: float
    identity: Mapping[str, Any]

    @property
    def windows(self) -> SlidingWindow:
        assert isinstance(self.predictor.strategy, SlidingWindow)
        return self.predictor.strategy

    def target(self, product: str) -> Path:
        path = self.output / product / self.name
        return path.with_name(path.name + ".tif")


def is_large(path: Path, predictor: Predictor, facts: DataFacts) -> bool:
    """Whether a picture has to be predicted in blocks: a budget is set, and its logits and pixels take half of it.

    A file that cannot be opened is not large: whoever reads it will say what is wrong with it.

    Raises:
        ConfigError: rasterio is not installed.
    """
    windows = predictor.strategy
    if not isinstance(windows, SlidingWindow) or windows.memory is None:
        return False
    with contextlib.suppress(DataError), open_raster(path) as raster:
        return raster.height * raster.width * (4 * facts.num_classes + 4 * facts.in_channels + 20) > windows.memory // 2
    return False


def predict_large(picture: LargePicture) -> None:
    """Predicts one picture, or goes on with it.

    Raises:
        ConfigError: the budget holds no block, or a product cannot be made of a large picture.
        DataError: the picture cannot be read, or has other channels or values than the data.
        MachineError: the disk is full.
    """
    others = [product for product in picture.products if product not in LARGE_PRODUCTS]
    if others:
        raise ConfigError(
            f"save={others[0]}: {picture.path} is predicted in blocks; choose from {', '.join(LARGE_PRODUCTS)}"
        )
    with open_raster(picture.path) as raster:
        raster.check(picture.facts.in_channels, picture.facts.value_range)
        if raster.is_turned:
            raise DataError(
                f"{picture.path}: turned by its EXIF orientation, which blocks do not follow; turn it first"
            )
        labels = LabelsOnDisk(picture.output / f".{picture.name.replace('/', '_')}.blocks", raster.area)
        with _room_named(picture.output):
            labels.begin(_key(picture), lambda: _block_size(picture, raster))
            blocks = grid(raster.area, *labels.block)
            with Progress(
                f"predict {picture.path.name}", len(blocks), initial=labels.done, unit="block", line_every=1
            ) as progress:
                for block in blocks[labels.done :]:
                    labels.write(block, _predict_block(picture, raster, block))
                    progress.advance()
            for product in picture.products:
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


def _block_size(picture: LargePicture, raster: Raster) -> tuple[int, int]:
    """As large as the budget allows, after what the process takes without any block has been seen.

    Raises:
        ConfigError: nothing is left for a block.
    """
    windows, facts = picture.windows, picture.facts
    assert windows.memory is not None
    window = Area(0, 0, min(windows.height, raster.height), min(windows.width, raster.width))
    reset_peaks(picture.predictor.hardware.device)
    crops = torch.zeros(windows.batch_size, facts.in_channels, window.height, window.width, dtype=torch.uint8)
    picture.predictor.logits_of(window, lambda _: crops, window)
    fixed = (peak_resident() or 2**30) + CACHE + MARGIN
    source = len(raster.bands) * raster.dtype.itemsize + 6 * facts.in_channels
    if raster.dtype != np.uint8:
        source += 8 * len(raster.bands)  # float32, twice, on its way to 8 bits
    size = block_size(windows, raster.area, facts.num_classes, source, int(SHARE * (windows.memory - fixed)))
    if size is None:
        least = fixed + int(block_bytes(windows, window.height, window.width, facts.num_classes, source) / SHARE)
        raise ConfigError(
            f"inference.memory: {windows.memory / 2**20:.0f} MiB hold no block of {picture.path}: the process itself "
            f"takes {fixed / 2**20:.0f} MiB; give {-(-least // 2**20)}MiB or more, or lower inference.batch_size"
        )
    return size


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
    """A TIFF of labels, of labels with their colours, or of the picture under its colours."""
    target, facts = picture.target(product), picture.facts
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = hidden(target)
    try:
        with create_raster(temporary, raster, 3 if product == "overlay" else 1, STRIP) as file:
            file.update_tags(class_names=json.dumps(facts.class_names))
            if product == "palette":
                file.write_colormap(1, dict(enumerate(facts.palette)))
            for strip, values in labels.strips():
                window = ((strip.top, strip.bottom), (strip.left, strip.right))
                if product == "overlay":
                    image = raster.read(strip, facts.in_channels, facts.value_range)
                    drawn = overlay(image, values, facts.palette, facts.ignore_index, picture.alpha)
                    file.write(np.moveaxis(drawn, -1, 0), window=window)
                else:
                    file.write(values, 1, window=window)
        os.replace(temporary, target)
        sync_folder(target.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def _room_named(output: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        there = next(folder for folder in (output, *output.parents) if folder.exists())
        raise MachineError(
            f"{output}: cannot be written to: {error.strerror or error}: {shutil.disk_usage(there).free:,} bytes are "
            "free; free some space and give the same line again: finished blocks are kept"
        ) from error
