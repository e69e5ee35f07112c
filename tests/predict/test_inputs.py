"""What `input=` means, and what results are called."""

import io
import sys
from pathlib import Path

import pytest

from segtrain.errors import ConfigError, DataError
from segtrain.predict.inputs import Input, find_inputs, named


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """a.jpg b.png clip.mp4 notes.txt sub/c.jpg, in the working directory."""
    for name in ("a.jpg", "b.png", "clip.mp4", "notes.txt", "sub/c.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def found(where: object) -> list[tuple[str, str]]:
    return [(one.name, str(one.source)) for one in find_inputs(where)]


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("a.jpg", [("a", "a.jpg")]),
        (".", [("a", "a.jpg"), ("b", "b.png")]),
        ("**/*.jpg", [("a", "a.jpg"), ("sub/c", "sub/c.jpg")]),
        ("clip.mp4", [("clip", "clip.mp4")]),
        (["sub/c.jpg", "a.jpg"], [("sub/c", "sub/c.jpg"), ("a", "a.jpg")]),
        (["clip.mp4", "*.png", "sub"], [("clip", "clip.mp4"), ("b", "b.png"), ("sub/c", "sub/c.jpg")]),
        (["a.jpg", "./a.jpg", "a.*"], [("a", "a.jpg")]),
        (0, [("camera0", "0")]),
    ],
)
def test_inputs_and_the_names_of_their_results(folder: Path, where: object, expected: list[tuple[str, str]]) -> None:
    assert found(where) == expected


def test_names_stay_inside_the_output_wherever_files_are(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder / "sub")
    assert found(["../a.jpg", "c.jpg", str(folder / "b.png")]) == [
        ("a", "../a.jpg"),
        ("sub/c", "c.jpg"),
        ("b", str(folder / "b.png")),
    ]


def test_a_suffix_is_part_of_the_name_where_two_files_differ_in_nothing_else() -> None:
    assert [one.name for one in named([Path("x.png"), Path("x.mp4"), Path("y.png")])] == ["x.png", "x.mp4", "y"]


@pytest.mark.parametrize(
    ("source", "film"), [("a.MP4", True), ("a.webm", True), ("a.png", False), ("a", False), (0, True)]
)
def test_a_film_is_known_by_its_suffix(source: str | int, film: bool) -> None:
    assert Input("a", Path(source) if isinstance(source, str) else source).is_film == film


def say(monkeypatch: pytest.MonkeyPatch, text: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text)))


def test_standard_input_names_a_file_on_each_line_whatever_it_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    say(monkeypatch, b"x/a b.jpg\n\nx/[1].png\r\nx/\xff.png\nx/missing.mp4")
    assert [(one.name, one.source) for one in find_inputs("-")] == [
        ("a b", Path("x/a b.jpg")),
        ("[1]", Path("x/[1].png")),
        ("\udcff", Path("x/\udcff.png")),
        ("missing", Path("x/missing.mp4")),
    ]


def test_an_empty_standard_input_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    say(monkeypatch, b"\n")
    with pytest.raises(DataError, match="names no file"):
        find_inputs("-")


@pytest.mark.parametrize(
    ("where", "error", "said"),
    [
        ([], ConfigError, "names nothing"),
        (-1, ConfigError, "numbered from 0"),
        (["a.jpg", "nowhere.jpg"], DataError, "input=nowhere.jpg: no such file"),
        ("sub/sub", DataError, "no such file"),
    ],
)
def test_a_wrong_input_is_said(folder: Path, where: object, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        find_inputs(where)
