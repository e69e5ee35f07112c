"""Products: which files there are to be, when they are all there, and what keeps one from being written."""

import errno
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segtrain.errors import ConfigError, MachineError
from segtrain.predict import products as module
from segtrain.predict.overlap import Ended
from segtrain.predict.products import FilmProducts, Places, Prediction, Products, chosen
from segtrain.report.look import Look
from segtrain.types import DataFacts

FACTS = DataFacts(("sky", "road"), ((9, 9, 200), (200, 0, 0)), 255, 3, (0.5,) * 3, (0.5,) * 3)
LOOK = Look(alpha=1.0, contours=False, side_by_side=False, legend=False)


def prediction() -> Prediction:
    labels = np.zeros((16, 20), dtype=np.uint8)
    labels[8:] = 1
    halves = np.full((2, 16, 20), 0.5, dtype=np.float16)
    return Prediction(np.zeros((16, 20, 3), dtype=np.uint8), labels, halves, np.full((16, 20), 128, dtype=np.uint8))


def products(output: Path, *wanted: str) -> Products:
    return Products(Places(output, chosen(wanted)), FACTS, LOOK)


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_each_product_is_a_file_in_a_folder_of_its_name(tmp_path: Path) -> None:
    products(tmp_path, "confidence", "index", "probabilities", "overlay").write("sub/a.v2", prediction())
    assert files(tmp_path) == [
        *("confidence/sub/a.v2.png", "index/sub/a.v2.png", "overlay/sub/a.v2.png", "probabilities/sub/a.v2.npz")
    ]


def test_scores_and_beliefs_share_a_figure(tmp_path: Path) -> None:
    for wanted, folders in (
        (("scores", "index", "beliefs"), ("index", "scores_beliefs")),
        (("beliefs",), ("beliefs",)),
        (("scores",), ("scores",)),
    ):
        assert Places(tmp_path, chosen(wanted)).folders == folders


def test_an_input_is_done_when_all_its_files_are_there(tmp_path: Path) -> None:
    places = Places(tmp_path, chosen(["index", "palette"]))
    products(tmp_path, "index").write("a", prediction())
    assert not places.are_filled("a", film=False)
    products(tmp_path, "palette").write("a", prediction())
    assert places.are_filled("a", film=False)
    assert not places.are_filled("b", film=False)


def test_a_film_with_a_file_per_frame_is_never_known_to_be_done(tmp_path: Path) -> None:
    writer = FilmProducts(products(tmp_path, "palette", "index"), "a", rate=10)
    writer.write(prediction(), 0)
    writer.finish()
    assert files(tmp_path) == ["index/a/000000.png", "palette/a.mp4"]
    assert Places(tmp_path, chosen(["palette"])).are_filled("a", film=True)
    assert not Places(tmp_path, chosen(["palette", "index"])).are_filled("a", film=True)


def test_frames_of_a_film_have_one_size_whatever_classes_they_show() -> None:
    look = Look(alpha=0.5, contours=False, side_by_side=True, legend=True)
    drawn = Products(Places(Path(), ["overlay"]), FACTS, look)
    both, one = prediction(), Prediction(np.zeros((16, 20, 3), np.uint8), np.zeros((16, 20), np.uint8))
    assert drawn.draw("overlay", both, frame=True).shape == drawn.draw("overlay", one, frame=True).shape


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (
            errno.ENOSPC,
            "No space left on device: [0-9,]+ bytes are free; free some space, and go on by overwrite=false",
        ),
        (errno.EACCES, "cannot be written: Permission denied"),
        (errno.ENAMETOOLONG, "File name too long"),
    ],
)
def test_a_file_that_cannot_be_written_is_named_and_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, said: str
) -> None:
    products(tmp_path, "index").write("a", prediction())
    before = (tmp_path / "index" / "a.png").read_bytes()

    class Full(module._Checked):
        def write(self, data: bytes) -> int:
            raise OSError(number, os.strerror(number))

    monkeypatch.setattr(module, "_Checked", Full)
    with pytest.raises(MachineError, match=f"index/a.png: cannot be written: .*{said}|{said}"):
        products(tmp_path, "index").write("a", prediction())
    assert files(tmp_path) == ["index/a.png"]
    assert (tmp_path / "index" / "a.png").read_bytes() == before


@pytest.mark.parametrize("product", ["index", "palette", "overlay", "confidence", "probabilities"])
def test_writing_ends_between_two_chunks_where_all_are_to_end(tmp_path: Path, product: str) -> None:
    chunks = 0

    def check() -> None:
        nonlocal chunks
        chunks += 1
        if chunks == 3:
            raise Ended

    ending = Products(Places(tmp_path, chosen([product])), FACTS, LOOK, check)
    with pytest.raises(Ended):
        ending.write("a", prediction())
    assert files(tmp_path) == []


def test_what_is_written_is_what_was_predicted(tmp_path: Path) -> None:
    products(tmp_path, "index", "palette", "confidence", "probabilities").write("a", prediction())
    labels = prediction().labels
    assert np.array_equal(np.array(Image.open(tmp_path / "index" / "a.png")), labels)
    palette = np.array(Image.open(tmp_path / "palette" / "a.png").convert("RGB"))
    assert np.array_equal(palette, np.array(FACTS.palette)[labels])
    assert (np.array(Image.open(tmp_path / "confidence" / "a.png")) == 128).all()
    archive = np.load(tmp_path / "probabilities" / "a.npz")
    assert list(archive["class_names"]) == ["sky", "road"]
    assert archive["probabilities"].dtype == np.float16


@pytest.mark.parametrize(
    ("wanted", "said"),
    [(["idex"], "did you mean 'index'"), ([], r"save=\[\] saves nothing"), (["beleifs"], "'beliefs'")],
)
def test_a_wrong_product_is_said(wanted: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        chosen(wanted)


def test_products_are_in_one_order_and_each_once() -> None:
    assert chosen(["beliefs", "index", "index", "palette"]) == ["index", "palette", "beliefs"]
