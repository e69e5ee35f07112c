"""A picture too large for memory: in which parts it is predicted, so that they fit."""

from segtrain.inference.sliding import SlidingWindow
from segtrain.types import Area

LABEL_BYTES = 10  # a pixel's label as torch's argmax gives it (int64), as it is written (uint8), and one in passing


def pixel_bytes(num_bands: int, itemsize: int, in_channels: int) -> int:
    """What a pixel takes on its way from a file to the model, copies in passing included.

    Args:
        num_bands: of the file.
        itemsize: bytes of one of its values; beyond 1 they become float32, twice, before they become uint8.
        in_channels: of the image, which augmentation copies.
    """
    return num_bands * (itemsize + (8 if itemsize > 1 else 0)) + 6 * in_channels


def whole_bytes(area: Area, num_classes: int, source_bytes: int) -> int:
    """What predicting a picture at once takes at most: logits, probabilities, those in half precision, and pixels."""
    return area.height * area.width * (10 * num_classes + LABEL_BYTES + source_bytes)


def grid(whole: Area, height: int, width: int) -> list[Area]:
    """The blocks of a picture, row by row; those at the right and at the bottom may be smaller."""
    return [
        Area(top, left, min(top + height, whole.bottom), min(left + width, whole.right))
        for top in range(whole.top, whole.bottom, height)
        for left in range(whole.left, whole.right, width)
    ]


def block_bytes(windows: SlidingWindow, height: int, width: int, num_classes: int, source_bytes: int) -> int:
    """What predicting a block takes: its logits and labels, and the pixels that its windows look at.

    Args:
        windows: how it is predicted.
        height: of the block.
        width: likewise.
        num_classes: float32 logits a pixel.
        source_bytes: of a pixel as it is read, all channels, copies in passing included.
    """
    seen = (height + 2 * windows.height) * (width + 2 * windows.width)
    return height * width * (4 * num_classes + LABEL_BYTES) + seen * source_bytes


def block_size(
    windows: SlidingWindow, whole: Area, num_classes: int, source_bytes: int, available: int
) -> tuple[int, int] | None:
    """The height and width of the blocks that fit in `available` bytes and show the model the fewest windows.

    Windows that reach over the border between two blocks are shown twice, so that few large blocks cost least. None
    where not even a block of one window's size fits.
    """
    down, right = windows.stride
    best: tuple[int, tuple[int, int]] | None = None
    for columns in range(1, whole.width // max(right, 1) + 2):
        width = -(-whole.width // columns)
        height = _largest_height(windows, whole, width, num_classes, source_bytes, available)
        if height is None:
            continue
        rows = -(-whole.height // height)
        height = -(-whole.height // rows)  # equally high blocks
        shown = rows * columns * ((height + windows.height) // down + 1) * ((width + windows.width) // right + 1)
        if best is None or shown < best[0]:
            best = shown, (height, width)
    return None if best is None else best[1]


def _largest_height(
    windows: SlidingWindow, whole: Area, width: int, num_classes: int, source_bytes: int, available: int
) -> int | None:
    base = block_bytes(windows, 0, width, num_classes, source_bytes)
    row = block_bytes(windows, 1, width, num_classes, source_bytes) - base
    height = min(whole.height, (available - base) // row)
    return height if height >= min(windows.height, whole.height) else None
