"""Films: what goes in comes out, as many frames, of the same size, at the same rate; cameras keep the clock."""

import resource
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from segtrain.errors import DataError, MachineError
from segtrain.predict import films
from segtrain.predict.films import FilmReader, FilmWriter, length_of

Frame = np.ndarray


def grey_film(path: Path, count: int, size: tuple[int, int] = (48, 64), rate: float = 12.5) -> Path:
    """Frame k has the colour (10 k, 0, 200)."""
    writer = FilmWriter(path, rate)
    for number in range(count):
        writer.write(np.full((*size, 3), (10 * number, 0, 200), dtype=np.uint8), number)
    writer.finish()
    return path


def test_number_size_rate_and_colours_of_frames_survive(tmp_path: Path) -> None:
    reader = FilmReader(grey_film(tmp_path / "a.mp4", 20), in_channels=3)
    assert (reader.rate, reader.length) == (12.5, 20)
    read = list(reader.frames(None))
    assert [number for number, _ in read] == list(range(20))
    for number, frame in read:
        assert frame.shape == (48, 64, 3)
        assert frame.dtype == np.uint8
        assert frame.mean(axis=(0, 1)) == pytest.approx([10 * number, 0, 200], abs=6)  # lossy
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.mp4"]


def test_grey_is_luma(tmp_path: Path) -> None:
    ((_, frame),) = FilmReader(grey_film(tmp_path / "a.mp4", 1), in_channels=1).frames(None)
    assert frame.shape == (48, 64, 1)
    assert frame.mean() == pytest.approx(0.114 * 200, abs=4)


def test_odd_sides_grow_by_a_repeated_pixel(tmp_path: Path) -> None:
    ((_, frame),) = FilmReader(grey_film(tmp_path / "a.mp4", 1, size=(47, 63)), in_channels=3).frames(None)
    assert frame.shape == (48, 64, 3)
    assert frame[-1, -1] == pytest.approx(frame[-2, -2], abs=6)


def test_most_frames_end_a_film_early_and_are_no_damage(tmp_path: Path) -> None:
    path = grey_film(tmp_path / "a.mp4", 20)
    assert [number for number, _ in FilmReader(path, 3).frames(5)] == list(range(5))


def test_missing_frames_repeat_the_one_before(tmp_path: Path) -> None:
    writer = FilmWriter(tmp_path / "a.mp4", 10)
    for number, value in ((0, 0), (3, 200)):
        writer.write(np.full((48, 64, 3), value, dtype=np.uint8), number)
    writer.finish()
    read = [round(frame.mean(), -2) for _, frame in FilmReader(tmp_path / "a.mp4", 3).frames(None)]
    assert read == [0, 0, 0, 200]


def test_an_abandoned_film_leaves_nothing_and_an_old_one_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"old")
    writer = FilmWriter(tmp_path / "a.mp4", 10)
    writer.write(np.zeros((48, 64, 3), dtype=np.uint8), 0)
    assert len(list(tmp_path.iterdir())) == 2
    writer.abandon()
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"old"]


def test_a_film_that_did_not_fit_on_the_disk_is_said_and_not_kept(tmp_path: Path) -> None:
    """OpenCV's writer says nothing of it; here no file of this process may grow beyond 20 KB."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    rng = np.random.default_rng(0)
    writer = FilmWriter(tmp_path / "a.mp4", 10)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        for number in range(30):
            writer.write(rng.integers(0, 256, (96, 128, 3), dtype=np.uint8), number)
        with pytest.raises(MachineError, match=r"a\.mp4: could not be written whole"):
            writer.finish()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    writer.abandon()
    assert list(tmp_path.iterdir()) == []


def test_a_film_without_a_frame_is_no_file(tmp_path: Path) -> None:
    writer = FilmWriter(tmp_path / "a.mp4", 10)
    writer.finish()
    writer.abandon()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "said"), [(None, "no such file"), (b"", "damaged, or not a video"), (b"x" * 999, "damaged, or not")]
)
def test_what_is_no_film_is_said(tmp_path: Path, content: bytes | None, said: str) -> None:
    if content is not None:
        (tmp_path / "a.mp4").write_bytes(content)
    with pytest.raises(DataError, match=said):
        FilmReader(tmp_path / "a.mp4", 3)
    assert length_of(tmp_path / "a.mp4") is None


def test_a_model_of_other_channels_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="wants 4 channels"):
        FilmReader(grey_film(tmp_path / "a.mp4", 1), in_channels=4)


class FakeCapture:
    """A camera or a file whose frames are `frames`, the first at second 0, each `seconds` after the one before."""

    frames: Sequence[Frame] = ()
    seconds: float = 0.0
    length: float = 0.0
    rate: float = 0.0
    now: float = 0.0
    opened: bool = True

    def __init__(self, source: object) -> None:
        self.left = list(self.frames)
        self.released = False
        type(self).last = self

    def isOpened(self) -> bool:  # noqa: N802 - OpenCV's name
        return self.opened

    def get(self, key: int) -> float:
        return {films.cv2.CAP_PROP_FPS: self.rate, films.cv2.CAP_PROP_FRAME_COUNT: self.length}[key]

    def read(self) -> tuple[bool, Frame | None]:
        if not self.left:
            return False, None
        if len(self.left) < len(self.frames):
            type(self).now += self.seconds
        return True, self.left.pop(0)

    def release(self) -> None:
        self.released = True


@pytest.fixture
def capture(monkeypatch: pytest.MonkeyPatch) -> type[FakeCapture]:
    class Fresh(FakeCapture):
        pass

    monkeypatch.setattr(films.cv2, "VideoCapture", Fresh)
    monkeypatch.setattr(films.time, "monotonic", lambda: Fresh.now)
    return Fresh


def black(height: int = 4) -> Frame:
    return np.zeros((height, 6, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("seconds", "numbers"),
    [
        (0.1, [0, 1, 2, 3]),  # as fast as it says it is
        (0.25, [0, 2, 5, 7]),  # slower: numbers are left out
        (0.05, [0, 1]),  # faster: every second one is
    ],
)
def test_a_cameras_numbers_keep_the_clock(capture: type[FakeCapture], seconds: float, numbers: list[int]) -> None:
    capture.frames, capture.seconds, capture.rate = [black()] * 4, seconds + 1e-9, 10
    reader = FilmReader(0, 3)
    assert reader.length is None
    assert [number for number, _ in reader.frames(None)] == numbers
    assert capture.last.released


def test_a_camera_gives_as_many_frames_as_were_asked_for(capture: type[FakeCapture]) -> None:
    capture.frames, capture.seconds = [black()] * 100, 1.0
    reader = FilmReader(0, 3)
    assert reader.rate == films.DEFAULT_RATE  # it does not say
    assert len(list(reader.frames(7))) == 7


def test_a_camera_that_is_not_there_is_said(capture: type[FakeCapture]) -> None:
    capture.opened = False
    with pytest.raises(DataError, match="input=3: this camera cannot be opened"):
        FilmReader(3, 3)


@pytest.mark.parametrize(
    ("frames", "length", "said"),
    [
        ([], 0, "no frame in it"),
        ([black()] * 9, 10, "ends after 9 of 10 frames"),
        ([black(), black(5)], 2, "frame 1 is 5x6, those before it are 4x6"),
    ],
)
def test_a_damaged_film_is_said_after_its_readable_frames(
    capture: type[FakeCapture], tmp_path: Path, frames: list[Frame], length: int, said: str
) -> None:
    capture.frames, capture.length = frames, length
    (tmp_path / "a.mp4").touch()
    received = []
    with pytest.raises(DataError, match=said):
        received += (number for number, _ in FilmReader(tmp_path / "a.mp4", 3).frames(None))
    assert capture.last.released


def test_a_header_that_estimates_the_length_is_believed_within_a_twentieth(
    capture: type[FakeCapture], tmp_path: Path
) -> None:
    capture.frames, capture.length = [black()] * 99, 100
    (tmp_path / "a.mkv").touch()
    assert len(list(FilmReader(tmp_path / "a.mkv", 3).frames(None))) == 99
