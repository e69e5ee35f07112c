"""`segtrain predict` on pictures, films, cameras and lists: what can be read is done, and whole or not at all."""

import errno
import io
import itertools
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from segtrain.data.shapes import Shapes
from segtrain.engine import checkpoint
from segtrain.predict import films, products
from segtrain.predict.films import FilmReader, FilmWriter

RunCli = Callable[..., tuple[int, str, str]]
Predict = Callable[..., tuple[int, str]]

CLASSES = ["background", "disc", "square", "triangle", "ring", "cross", "bar"]


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six pictures of several sizes and a film of seven frames at 12.5 a second."""
    folder = tmp_path_factory.mktemp("media")
    for number in range(6):
        drawn = Shapes("val", [48 + 8 * number, 64], 1, 6, 0, CLASSES, None, 255, 3)
        Image.fromarray(drawn[(0, number)].image).save(folder / f"p{number}.png")
    writer = FilmWriter(folder / "clip.mp4", 12.5)
    wide = Shapes("val", [48, 128], 1, 1, 0, CLASSES, None, 255, 3)[(0, 0)].image
    for number in range(7):
        writer.write(wide[:, 8 * number : 8 * number + 64], number)
    writer.finish()
    return folder


@pytest.fixture
def predict(finished_run: Path, run_cli: RunCli) -> Predict:
    """`predict(*words) -> (exit code, standard error)`."""

    def run(*words: object) -> tuple[int, str]:
        code, _, err = run_cli("predict", f"checkpoint={finished_run}/checkpoints/best.pt", *words)
        return code, err

    return run


def files(folder: Path) -> dict[str, bytes]:
    """Contents by name; hidden files too, so that what is left half written is seen."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def read_film(path: Path) -> list[np.ndarray]:
    return [frame for _, frame in FilmReader(path, 3).frames(None)]


def test_what_is_written_does_not_depend_on_how_far_reading_and_writing_are_apart(
    predict: Predict, media: Path, tmp_path: Path
) -> None:
    for name, pace in (("near", ("prefetch=1", "writers=1")), ("far", ("prefetch=8", "writers=4"))):
        words = (f"output={tmp_path / name}", *pace)
        everything = "save=[index,palette,overlay,probabilities,confidence]"
        for code, err in (
            predict(f"input={media}", everything, *words),
            predict(f"input=[{media}/p0.png,{media}/p1.png]", "save=[scores,beliefs]", *words),
        ):
            assert code == 0, err
    near = files(tmp_path / "near")
    assert len(near) == 6 * 5 + 2  # scores and beliefs share a file
    assert near == files(tmp_path / "far")


def test_a_film_becomes_films_and_a_file_per_frame(
    predict: Predict, finished_run: Path, media: Path, tmp_path: Path
) -> None:
    code, err = predict(f"input={media}/clip.mp4", f"output={tmp_path}", "save=[index,palette,overlay]")
    assert code == 0, err
    assert sorted(files(tmp_path)) == [
        *(f"index/clip/{number:06d}.png" for number in range(7)),
        *("overlay/clip.mp4", "palette/clip.mp4"),
    ]
    for product in ("palette", "overlay"):
        reader = FilmReader(tmp_path / product / "clip.mp4", 3)
        assert (reader.rate, reader.length) == (12.5, 7)
    shown = read_film(tmp_path / "palette" / "clip.mp4")
    palette = np.array(checkpoint.load(finished_run / "checkpoints" / "best.pt")["facts"]["palette"])
    for number, frame in enumerate(shown):
        index = np.array(Image.open(tmp_path / "index" / "clip" / f"{number:06d}.png"))
        assert frame.shape == (48, 64, 3)
        assert "frame 7/7" in err
        # Colours of the frame's own labels, as far as the codec keeps them.
        assert abs(frame.astype(int).mean(axis=(0, 1)) - palette[index].mean(axis=(0, 1))).max() < 12


def test_films_with_legend_and_image_are_wider(predict: Predict, media: Path, tmp_path: Path) -> None:
    words = ("save=[overlay]", "legend=true", "side_by_side=true", "contours=true")
    code, err = predict(f"input={media}/clip.mp4", f"output={tmp_path}", *words)
    assert code == 0, err
    frames = read_film(tmp_path / "overlay" / "clip.mp4")
    assert len(frames) == 7
    assert frames[0].shape[1] > 2 * 64


def test_a_list_may_name_pictures_and_films(predict: Predict, media: Path, tmp_path: Path) -> None:
    code, err = predict(
        f"input=[{media}/p1.png,{media}/clip.mp4,'{media}/p[45].png']", f"output={tmp_path}", "max_frames=2"
    )
    assert code == 0, err
    assert sorted(path for path in files(tmp_path) if path.startswith("overlay")) == [
        *("overlay/clip.mp4", "overlay/p1.png", "overlay/p4.png", "overlay/p5.png")
    ]
    assert len(read_film(tmp_path / "overlay" / "clip.mp4")) == 2
    assert "4 of 4 inputs predicted, 5 images or frames" in err


def test_standard_input_lists_files_and_missing_ones_are_said_at_the_end(
    predict: Predict, media: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"{media}/p0.png", f"{media}/nowhere.png", f"{media}/gone.mp4", f"{media}/p1.png"]
    for number, word in enumerate(("--stdin", "input=-")):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("\n".join(names).encode())))
        code, err = predict(word, f"output={tmp_path / str(number)}", "save=[index]")
        assert code == 2
        assert err.splitlines()[-3:] == [
            "segtrain: error: 2 of 4 inputs could not be read:",
            f"{media}/nowhere.png: no such file",
            f"{media}/gone.mp4: no such file",
        ]
        assert sorted(files(tmp_path / str(number))) == ["index/p0.png", "index/p1.png"]


def test_a_damaged_film_costs_only_itself(predict: Predict, media: Path, tmp_path: Path) -> None:
    whole = (media / "clip.mp4").read_bytes()
    (tmp_path / "bad.mp4").write_bytes(whole[: len(whole) // 2])
    code, err = predict(f"input=[{tmp_path}/bad.mp4,{media}/p0.png]", f"output={tmp_path / 'out'}", "save=[overlay]")
    assert code == 2
    assert err.splitlines()[-1].startswith(f"{tmp_path}/bad.mp4: damaged, or not a video")
    assert len(files(tmp_path / "out")) == 1


def test_what_is_there_already_is_left_out_on_request(predict: Predict, media: Path, tmp_path: Path) -> None:
    words = (f"input={media}", f"output={tmp_path}", "save=[index,palette]")
    assert predict(*words)[0] == 0
    before = files(tmp_path)
    (tmp_path / "index" / "p3.png").unlink()
    (tmp_path / "palette" / "p5.png").unlink()
    (tmp_path / "index" / "p1.png").write_bytes(b"kept")
    code, err = predict(*words, "overwrite=false")
    assert code == 0, err
    assert "4 of 6 have their files already" in err
    assert "2 of 2 images predicted" in err
    assert files(tmp_path) == before | {"index/p1.png": b"kept"}
    assert "predicted" not in predict(*words, "overwrite=false")[1]
    assert predict(*words)[0] == 0
    assert files(tmp_path) == before


def test_a_full_disk_is_a_shortage_of_the_machine_and_leaves_no_half_file(
    predict: Predict, media: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chunks = itertools.count()

    class Full(products._Checked):
        def write(self, data: bytes) -> int:
            if next(chunks) == 12:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return super().write(data)

    monkeypatch.setattr(products, "_Checked", Full)
    code, err = predict(f"input={media}", f"output={tmp_path}", "save=[index]", "writers=3")
    assert code == 3
    assert err.splitlines()[-1].startswith(f"segtrain: error: {tmp_path}/index/p")
    assert "No space left on device" in err
    assert "Traceback" not in err
    written = files(tmp_path)
    assert 0 < len(written) < 6
    for name in written:
        Image.open(tmp_path / name).load()
        assert not Path(name).name.startswith(".")


class Camera:
    """An endless camera at 10 frames a second, which sends this process a signal at frame `signal_at`."""

    signal_at: int | None = None
    number = signal.SIGINT

    def __init__(self, source: object) -> None:
        self.source, self.frame = source, 0
        self.noise = np.random.default_rng(0)

    def isOpened(self) -> bool:  # noqa: N802 - OpenCV's name
        return True

    def get(self, key: int) -> float:
        return 10.0 if key == cv2.CAP_PROP_FPS else 0.0

    def read(self) -> tuple[bool, np.ndarray]:
        self.frame += 1
        if self.frame == self.signal_at:
            os.kill(os.getpid(), self.number)
        return True, self.noise.integers(0, 256, (48, 64, 3), dtype=np.uint8)

    def release(self) -> None:
        pass


@pytest.fixture
def camera(monkeypatch: pytest.MonkeyPatch) -> type[Camera]:
    """Instead of every camera; its clock goes on by a tenth of a second at each look."""

    class Mine(Camera):
        pass

    real, seconds = cv2.VideoCapture, itertools.count()
    opened = lambda source: Mine(source) if isinstance(source, int) else real(source)  # noqa: E731
    monkeypatch.setattr(films.cv2, "VideoCapture", opened)
    monkeypatch.setattr(films.time, "monotonic", lambda: next(seconds) / 10 + 1e-6)
    return Mine


def test_a_camera_is_recorded_for_as_long_as_was_asked(predict: Predict, camera: type[Camera], tmp_path: Path) -> None:
    code, err = predict("input=0", "max_frames=5", f"output={tmp_path}", "save=[overlay]")
    assert code == 0, err
    assert sorted(files(tmp_path)) == ["overlay/camera0.mp4"]
    assert len(read_film(tmp_path / "overlay" / "camera0.mp4")) >= 5
    assert "5 images or frames" in err


@pytest.mark.parametrize(("number", "exit_code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_a_camera_and_keeps_what_it_showed(
    predict: Predict, camera: type[Camera], tmp_path: Path, number: signal.Signals, exit_code: int
) -> None:
    camera.signal_at, camera.number = 20, number
    before = threading.active_count()
    code, err = predict("input=0", f"output={tmp_path}", "save=[overlay]", "prefetch=2")
    assert code == exit_code
    assert "Traceback" not in err
    assert threading.active_count() == before
    assert sorted(files(tmp_path)) == ["overlay/camera0.mp4"]
    assert len(read_film(tmp_path / "overlay" / "camera0.mp4")) >= 1


def test_a_signal_leaves_no_half_film_of_a_file(
    predict: Predict, media: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = FilmReader.frames

    def interrupted(self: FilmReader, most: int | None) -> Iterator[tuple[int, np.ndarray]]:
        for number, frame in real(self, most):
            if number == 5:
                os.kill(os.getpid(), signal.SIGINT)
            yield number, frame

    monkeypatch.setattr(FilmReader, "frames", interrupted)
    code, _ = predict(f"input={media}/clip.mp4", f"output={tmp_path}", "save=[overlay]", "prefetch=1")
    assert code == 130
    assert files(tmp_path) == {}


def test_a_camera_that_is_not_there_is_one_line(predict: Predict, tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    code, err = predict("input=99", f"output={tmp_path}")
    assert code == 2
    assert err.splitlines()[-1].startswith("input=99: this camera cannot be opened")
    assert capfd.readouterr().err == ""  # of OpenCV


def test_figures_of_scores_and_beliefs_are_written_for_each_image(
    predict: Predict, media: Path, tmp_path: Path
) -> None:
    code, err = predict(f"input={media}/p0.png", f"output={tmp_path}", "save=[scores,beliefs]", "figure_classes=2")
    assert code == 0, err
    assert list(files(tmp_path)) == ["scores_beliefs/p0.png"]
    width, height = Image.open(tmp_path / "scores_beliefs" / "p0.png").size
    assert width > 3 * 200
    assert height < 4.2 * 209  # the whole and two classes
