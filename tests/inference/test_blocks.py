"""In which parts a picture too large for memory is predicted."""

from hypothesis import given
from hypothesis import strategies as st

from segtrain.inference import SlidingWindow
from segtrain.inference.blocks import block_bytes, block_size, grid
from segtrain.types import Area


def windows(side: int = 64) -> SlidingWindow:
    return SlidingWindow([side, side], None, 0.5, "uniform", 0.125, batch_size=2, memory="1GiB")


def test_blocks_cover_the_picture_once_row_by_row():
    assert grid(Area(0, 0, 5, 7), 3, 4) == [Area(0, 0, 3, 4), Area(0, 4, 3, 7), Area(3, 0, 5, 4), Area(3, 4, 5, 7)]


@given(st.integers(1, 3000), st.integers(1, 3000), st.integers(2, 150), st.integers(10**5, 10**8))
def test_a_block_fits_in_what_is_available(height, width, num_classes, available):
    strategy, whole = windows(), Area(0, 0, height, width)
    size = block_size(strategy, whole, num_classes, 6, available)
    if size is None:
        least = min(64, height), min(64, width)
        assert block_bytes(strategy, *least, num_classes, 6) > available // 4
    else:
        assert block_bytes(strategy, *size, num_classes, 6) <= available
        assert size[0] <= height
        assert size[1] <= width


def test_what_fits_whole_is_one_block():
    assert block_size(windows(), Area(0, 0, 500, 700), 10, 6, 10**9) == (500, 700)


def test_more_memory_means_no_more_blocks():
    whole = Area(0, 0, 5000, 5000)
    counts = []
    for available in (10**7, 3 * 10**7, 10**8, 10**9):
        size = block_size(windows(), whole, 20, 6, available)
        assert size is not None
        counts.append(len(grid(whole, *size)))
    assert counts == sorted(counts, reverse=True)
    assert counts[0] > counts[-1]
