"""Films: frames out of a video file or a camera, by OpenCV, and frames into a video file."""

import contextlib
import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from segtrain.engine.whole_files import rename, sync
from segtrain.errors import DataError, MachineError

# What OpenCV's own build can always write: MPEG-4 part 2. H.264 is left out of it for its licence.
CODEC = "mp4v"
SUFFIX = ".mp4"

DEFAULT_RATE = 25.0  # frames per second where the file or the camera does not say
RATES = (0.1, 1000.0)  # others are no rates: some files say 90000, the unit of their clock


class FilmReader:
    """The frames of a video file, or of a camera as long as it delivers any.

    Args:
        source: the file, or the number of a camera.
        in_channels: 3 (RGB) or 1 (grey, ITU-R 601 luma).

    Attributes:
        rate: frames per second.
        length: how many frames the file says it has; None where it does not, or of a camera.

    Raises:
        DataError: it cannot be opened; or, while iterating, holds no frame, frames of unequal size, or fewer than it
            says.
    """

    def __init__(self, source: Path | int, in_channels: int) -> None:
        if in_channels not in (1, 3):
            raise DataError(f"{source}: the model wants {in_channels} channels, and a film has 3; predict its frames")
        self.source, self.in_channels = source, in_channels
        self.capture = _opened(source)
        self.rate = _rate(self.capture)
        length = self.capture.get(cv2.CAP_PROP_FRAME_COUNT)
        self.length = int(length) if not self.is_camera and length >= 1 else None

    @property
    def is_camera(self) -> bool:
        return isinstance(self.source, int)

    def frames(self, most: int | None) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        """(number, [H, W, in_channels] uint8), at most `most` of them.

        The numbers of a file's frames count up from 0. Those of a camera's say when a frame came, in units of 1 / rate
        seconds since the first: they leave out what came while nobody asked, and a second frame of one number too.
        """
        last, count, began = -1, 0, time.monotonic()
        size: Sequence[int] = ()
        try:
            while most is None or count < most:
                there, frame = self.capture.read()
                if not there:
                    break
                if count == 0:
                    size, began = frame.shape[:2], time.monotonic()
                number = math.floor((time.monotonic() - began) * self.rate) if self.is_camera else last + 1
                if number == last:
                    continue
                if frame.shape[:2] != size:
                    raise DataError(
                        f"{self.source}: frame {number} is {_by(frame.shape)}, those before it are {_by(size)}"
                    )
                yield number, self._converted(np.asarray(frame, dtype=np.uint8))
                last, count = number, count + 1
        finally:
            self.capture.release()
        if count == 0:
            raise DataError(f"{self.source}: no frame in it can be read")
        ran_out = most is None or count < most
        if ran_out and self.length is not None and count < 0.95 * self.length:  # some headers only estimate it
            raise DataError(f"{self.source}: ends after {count} of {self.length} frames; is the file damaged?")

    def _converted(self, frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
        if self.in_channels == 1:
            return np.asarray(cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY), dtype=np.uint8)[..., None]
        return np.ascontiguousarray(frame[..., ::-1])  # OpenCV's channels are blue, green, red


def length_of(path: Path) -> int | None:
    """How many frames a video file says it has; None where it does not, or cannot be opened."""
    with contextlib.suppress(DataError):
        reader = FilmReader(path, in_channels=3)
        reader.capture.release()
        return reader.length
    return None


class FilmWriter:
    """A video file that is there whole or not at all: it gets its name when it is finished.

    An odd height or width, which the codec does not know, grows by one pixel that repeats its neighbour.

    Args:
        path: to write, with its suffix.
        rate: frames per second.

    Raises:
        MachineError: the file cannot be written.
    """

    def __init__(self, path: Path, rate: float) -> None:
        self.path, self.rate = path, rate
        self.count = 0
        # OpenCV chooses the container by the suffix.
        self._part = path.with_name(f".{path.stem}.part{path.suffix}")
        self._writer: cv2.VideoWriter | None = None
        self._last: NDArray[np.uint8] | None = None

    def write(self, picture: NDArray[np.uint8], number: int) -> None:
        """Appends an [H, W, 3] RGB picture as frame `number`, after repeats of the one before for those missing."""
        height, width = picture.shape[:2]
        even = np.pad(picture, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        frame = np.ascontiguousarray(even[..., ::-1])
        if self._writer is None:
            self._writer = self._begin((frame.shape[1], frame.shape[0]))
        for _ in range(self.count, number):
            self._append(frame if self._last is None else self._last)
        self._append(frame)
        self._last = frame

    def finish(self) -> None:
        """Gives the file its name, if it has a frame. Raises MachineError where not all of it is on the disk."""
        if self._writer is None:
            return
        self._writer.release()
        # The writer says nothing of a full disk; what was written then has no index, or fewer frames.
        if length_of(self._part) != self.count:
            raise MachineError(
                f"{self.path}: could not be written whole; is the disk full? free some space and run the command again"
            )
        sync(self._part)
        rename(self._part, self.path)

    def abandon(self) -> None:
        """Removes what was written, unless it was finished."""
        if self._writer is not None:
            self._writer.release()
        with contextlib.suppress(OSError):
            self._part.unlink(missing_ok=True)

    def _begin(self, size: tuple[int, int]) -> cv2.VideoWriter:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with _quietly():
            writer = cv2.VideoWriter(str(self._part), cv2.VideoWriter.fourcc(*CODEC), self.rate, size)
        if not writer.isOpened():
            raise MachineError(
                f"{self.path}: a video of {size[0]}x{size[1]} cannot be begun there; may the folder be written to, and "
                "is it not full?"
            )
        return writer

    def _append(self, frame: NDArray[np.uint8]) -> None:
        assert self._writer is not None
        self._writer.write(frame)
        self.count += 1


def _by(shape: Sequence[int]) -> str:
    return f"{shape[0]}x{shape[1]}"


def _opened(source: Path | int) -> cv2.VideoCapture:
    if isinstance(source, Path) and not source.is_file():
        raise DataError(f"{source}: no such file")
    with _quietly():
        capture = cv2.VideoCapture(source if isinstance(source, int) else str(source))
    if capture.isOpened():
        return capture
    if isinstance(source, int):
        raise DataError(f"input={source}: this camera cannot be opened; is it there, and does no other program use it?")
    raise DataError(f"{source}: damaged, or not a video of a known format")


def _rate(capture: cv2.VideoCapture) -> float:
    rate = capture.get(cv2.CAP_PROP_FPS)
    return rate if RATES[0] <= rate <= RATES[1] else DEFAULT_RATE


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Without OpenCV's own lines on standard error: what went wrong is said once, in ours."""
    level = cv2.utils.logging.getLogLevel()
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        yield
    finally:
        cv2.utils.logging.setLogLevel(level)
