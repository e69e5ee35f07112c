"""Pictures too large for memory, predicted block by block."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import segtrain.predict.large as large
from segtrain.errors import ConfigError, DataError, MachineError
from segtrain.inference import Predictor, SlidingWindow
from segtrain.inference.blocks import grid
from segtrain.predict.labels_on_disk import LabelsOnDisk
from segtrain.predict.large import LargePicture, check_large, is_large, predict_large
from segtrain.predict.products import Places
from segtrain.report.look import Look
from segtrain.report.pictures import overlay
from segtrain.types import Area, DataFacts, Hardware, ModelOutput

rasterio = pytest.importorskip("rasterio")
pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")

FACTS = DataFacts(("a", "b", "c"), ((0, 0, 0), (255, 0, 0), (0, 0, 255)), 255, 3, (0.5,) * 3, (0.5,) * 3)
LOOK = Look(0.5, contours=False, side_by_side=False, legend=False)
CPU = Hardware(torch.device("cpu"), None, torch.contiguous_format, False)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 3, 5, padding=2)

    def forward(self, images: Tensor) -> ModelOutput:
        return ModelOutput(self.conv(images), {})


class Scaled(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images.float() / 255 - 0.5


def predictor(blend: str = "gaussian", memory: str | None = "1GiB") -> Predictor:
    windows = SlidingWindow([32, 32], None, 0.5, blend, 0.125, batch_size=4, memory=memory)  # type: ignore[arg-type]
    return Predictor(Net(), Scaled(), windows, CPU)


def prepare(image: np.ndarray, name: str) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))[None]


@pytest.fixture
def photograph(tmp_path: Path) -> tuple[Path, np.ndarray]:
    values = np.random.default_rng(0).integers(0, 256, (3, 150, 210), dtype=np.uint8)
    path = tmp_path / "city.tif"
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        dtype="uint8",
        count=3,
        height=150,
        width=210,
        crs="EPSG:32632",
        transform=rasterio.transform.from_origin(500_000, 5_000_000, 0.2, 0.2),
        photometric="rgb",
    ) as file:
        file.write(values)
    return path, values


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(large, "_block_size", lambda picture, raster, area: (61, 90))


def picture(path: Path, output: Path, products: tuple[str, ...] = ("index",), **changes: object) -> LargePicture:
    given = {"predictor": predictor(), "facts": FACTS, "prepare": prepare, "look": LOOK, "identity": {"checkpoint": 1}}
    places = Places(output, products)
    return LargePicture(path=path, name="city", places=places, **{**given, **changes})  # type: ignore[arg-type]


def read(path: Path) -> np.ndarray:
    with rasterio.open(path) as file:
        return np.asarray(file.read())


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("blend", ["uniform", "gaussian", "nearest"])
def test_the_labels_are_those_of_the_windows_over_the_whole_picture(tmp_path, photograph, blend):
    path, values = photograph
    predict_large(picture(path, tmp_path / "out", predictor=predictor(blend)))
    whole = predictor(blend).labels(torch.from_numpy(values)[None], None)[0].numpy()
    labels = read(tmp_path / "out" / "index" / "city.tif")[0]
    assert labels.dtype == np.uint8
    assert (labels == whole).mean() > 0.9995  # where two classes tie to the last bit, sums in another order decide
    assert len(np.unique(labels)) == 3


@pytest.mark.usefixtures("small_blocks")
def test_products_lie_where_the_picture_lies_and_show_the_classes(tmp_path, photograph):
    path, values = photograph
    predict_large(picture(path, tmp_path, ("index", "palette", "overlay"), look=replace(LOOK, alpha=1.0)))
    labels = read(tmp_path / "index" / "city.tif")[0]
    with rasterio.open(path) as source, rasterio.open(tmp_path / "palette" / "city.tif") as file:
        assert (file.crs, file.transform) == (source.crs, source.transform)
        assert {label: colour[:3] for label, colour in file.colormap(1).items() if label < 3} == dict(
            enumerate(FACTS.palette)
        )
        assert json.loads(file.tags()["class_names"]) == ["a", "b", "c"]
        assert np.array_equal(file.read(1), labels)
    expected = overlay(np.moveaxis(values, 0, -1), labels, FACTS.palette, FACTS.ignore_index, 1.0)
    assert np.array_equal(np.moveaxis(read(tmp_path / "overlay" / "city.tif"), 0, -1), expected)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["city.tif", "index", "overlay", "palette"]


class Killed(BaseException):
    pass


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("after", [1, 4, 8])
def test_killed_half_way_it_goes_on_with_the_blocks_that_are_missing(tmp_path, photograph, monkeypatch, after):
    path, _ = photograph
    predict_large(picture(path, tmp_path / "whole"))
    asked = count_blocks(monkeypatch, fail_after=after)
    with pytest.raises(Killed):
        predict_large(picture(path, tmp_path / "out"))
    assert not (tmp_path / "out" / "index").exists()
    asked = count_blocks(monkeypatch)
    predict_large(picture(path, tmp_path / "out"))
    assert len(asked) == 9 - after
    assert np.array_equal(
        read(tmp_path / "out" / "index" / "city.tif"), read(tmp_path / "whole" / "index" / "city.tif")
    )


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("change", ["checkpoint", "picture", "windows"])
def test_labels_of_something_else_are_not_gone_on_with(tmp_path, photograph, monkeypatch, change):
    path, values = photograph
    count_blocks(monkeypatch, fail_after=5)
    with pytest.raises(Killed):
        predict_large(picture(path, tmp_path / "out"))
    asked = count_blocks(monkeypatch)
    changes: dict[str, object] = {}
    if change == "checkpoint":
        changes["identity"] = {"checkpoint": 2}
    if change == "windows":
        changes["predictor"] = predictor("uniform")
    if change == "picture":
        with rasterio.open(path, "r+") as file:
            file.write(255 - values)
        path.touch()
    predict_large(picture(path, tmp_path / "out", **changes))
    assert len(asked) == 9


def count_blocks(monkeypatch: pytest.MonkeyPatch, fail_after: int | None = None) -> list[object]:
    asked: list[object] = []
    original: Callable[..., np.ndarray] = ORIGINAL

    def counted(*args: object) -> np.ndarray:
        if len(asked) == fail_after:
            raise Killed
        asked.append(args)
        return original(*args)

    monkeypatch.setattr(large, "_predict_block", counted)
    return asked


ORIGINAL = large._predict_block


def test_a_budget_that_holds_no_block_says_how_much_would(tmp_path, photograph):
    path, _ = photograph
    with pytest.raises(ConfigError, match=r"inference\.memory: 1 MiB hold no block .* give \d+MiB or more"):
        predict_large(picture(path, tmp_path, predictor=predictor(memory="1MiB")))


def test_a_budget_that_holds_the_picture_makes_one_block_of_it(tmp_path, photograph, monkeypatch):
    path, _ = photograph
    asked = count_blocks(monkeypatch)
    predict_large(picture(path, tmp_path, predictor=predictor(memory="64GiB")))
    assert len(asked) == 1


@pytest.mark.parametrize(
    ("products", "look", "facts", "message"),
    [
        (("index", "probabilities"), LOOK, FACTS, "save=probabilities: .*there can be index, palette, overlay"),
        (("index",), replace(LOOK, legend=True), FACTS, "legend=true: not of a picture"),
        (("index",), replace(LOOK, side_by_side=True), FACTS, "side_by_side=true: not of a picture"),
        (("index",), LOOK, DataFacts.of(300, 3), "300 classes"),
    ],
)
def test_what_blocks_cannot_give_is_refused_by_name(tmp_path, products, look, facts, message):
    with pytest.raises(ConfigError, match=message):
        check_large(Places(tmp_path, products), look, facts)


def test_a_picture_of_other_channels_is_refused_before_anything_is_predicted(tmp_path):
    path = tmp_path / "a.tif"
    with rasterio.open(path, "w", driver="GTiff", dtype="uint8", count=5, height=99, width=99) as file:
        file.write(np.zeros((5, 99, 99), dtype=np.uint8))
    with pytest.raises(DataError, match="5 channels"):
        predict_large(picture(path, tmp_path))


def test_only_with_a_budget_and_beyond_it_is_a_picture_large(photograph):
    path, _ = photograph
    assert not is_large(path, predictor(memory=None), FACTS)
    assert not is_large(path, predictor(memory="1GiB"), FACTS)
    assert is_large(path, predictor(memory="1MiB"), FACTS)


def test_beyond_what_is_ever_read_at_once_a_picture_is_large_whatever_the_budget(photograph, monkeypatch):
    monkeypatch.setattr(large, "MAX_PIXELS", 1000)
    assert is_large(photograph[0], predictor(memory="64GiB"), FACTS)


def test_with_less_memory_than_before_it_goes_on_in_smaller_blocks(tmp_path, photograph, monkeypatch):
    path, _ = photograph
    sizes = {2**40: (50, 210), 2**30: (20, 100)}
    monkeypatch.setattr(large, "_block_size", lambda picture, raster, area: sizes[picture.memory])
    predict_large(picture(path, tmp_path / "whole", predictor=predictor(memory="1TiB")))
    count_blocks(monkeypatch, fail_after=1)
    with pytest.raises(Killed):
        predict_large(picture(path, tmp_path / "out", predictor=predictor(memory="1TiB")))
    asked = count_blocks(monkeypatch)
    predict_large(picture(path, tmp_path / "out", predictor=predictor(memory="1GiB")))
    assert [block for _, _, block in asked] == grid(Area(50, 0, 150, 210), 20, 100)
    ended, whole = (read(tmp_path / which / "index" / "city.tif") for which in ("out", "whole"))
    assert (ended == whole).mean() > 0.9995


@pytest.mark.usefixtures("small_blocks")
def test_killed_while_it_begins_anew_no_label_of_before_counts(tmp_path, photograph, monkeypatch):
    path, _ = photograph
    predict_large(picture(path, tmp_path / "whole"))
    count_blocks(monkeypatch, fail_after=5)
    with pytest.raises(Killed):
        predict_large(picture(path, tmp_path / "out"))
    with monkeypatch.context() as patched:
        patched.setattr(LabelsOnDisk, "_write_note", lambda labels: (_ for _ in ()).throw(Killed))
        with pytest.raises(Killed):
            predict_large(picture(path, tmp_path / "out", identity={"checkpoint": 2}))
    asked = count_blocks(monkeypatch)
    predict_large(picture(path, tmp_path / "out"))
    assert len(asked) == 9
    assert np.array_equal(
        read(tmp_path / "out" / "index" / "city.tif"), read(tmp_path / "whole" / "index" / "city.tif")
    )


@pytest.mark.usefixtures("small_blocks")
def test_a_product_that_the_disk_did_not_take_ends_in_one_line_and_keeps_the_labels(tmp_path, photograph, monkeypatch):
    path, _ = photograph
    with monkeypatch.context() as patched:
        original = large._check_written

        def cut(temporary: Path, written: object) -> None:
            with open(temporary, "rb+") as file:
                file.truncate(temporary.stat().st_size - 900)
            original(temporary, written)  # type: ignore[arg-type]

        patched.setattr(large, "_check_written", cut)
        with pytest.raises(MachineError, match="not whole; the disk may be full"):
            predict_large(picture(path, tmp_path / "out"))
    assert not (tmp_path / "out" / "index" / "city.tif").exists()
    asked = count_blocks(monkeypatch)
    predict_large(picture(path, tmp_path / "out"))
    assert asked == []
    assert (tmp_path / "out" / "index" / "city.tif").exists()
