"""What `input=` means: pictures, films and cameras, each under the name that its results get."""

import glob
import os
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from segtrain.data.reading import IMAGE_SUFFIXES
from segtrain.errors import ConfigError, DataError

STDIN = "-"
FILM_SUFFIXES = frozenset({".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv"})


@dataclass(frozen=True)
class Input:
    """One thing to predict.

    Attributes:
        name: of its results: a path relative to the folder that a product gets, without suffix.
        source: the file, or the number of a camera.
    """

    name: str
    source: Path | int

    @property
    def is_film(self) -> bool:
        """Whether it has frames, and is not one picture."""
        return isinstance(self.source, int) or self.source.suffix.lower() in FILM_SUFFIXES

    def __str__(self) -> str:
        return f"camera {self.source}" if isinstance(self.source, int) else str(self.source)


def find_inputs(where: str | int | Sequence[str]) -> list[Input]:
    """The pictures, films or the camera meant by `input=`.

    Args:
        where: a file; a folder, whose images are taken but not its subfolders'; a glob; a list of these; the number of
            a camera; or `-`: standard input names files, one a line, and is read to its end first.

    Returns:
        Each once, in order: of a folder and a glob sorted. A name is the file's path relative to the folder they are
        all in, without suffix (with it, where two differ in nothing else). A file that standard input names may be
        missing: it is found out when it is read.

    Raises:
        DataError: there is nothing of that name, or no image in it.
        ConfigError: an empty list, or a camera of a negative number.
    """
    if isinstance(where, int):
        if where < 0:
            raise ConfigError(f"input={where}: cameras are numbered from 0")
        return [Input(f"camera{where}", where)]
    if isinstance(where, str):
        return named(_listed_on_stdin() if where == STDIN else _files(where))
    if not where:
        raise ConfigError("input=[] names nothing; name files, folders or globs")
    return named([file for each in where for file in _files(each)])


def named(files: Iterable[Path]) -> list[Input]:
    """Each of the files once, under the name its results get."""
    files = list(dict.fromkeys(files))
    places = [Path(os.path.abspath(file)) for file in files]  # a name must not begin with `..`
    root = os.path.commonpath([place.parent for place in places])
    names = [place.relative_to(root) for place in places]
    sharing = Counter(name.with_suffix("") for name in names)
    return [
        Input(str(name.with_suffix("") if sharing[name.with_suffix("")] == 1 else name), file)
        for name, file in zip(names, files, strict=True)
    ]


def _files(where: str) -> list[Path]:
    path = Path(where)
    if path.is_file():
        return [path]
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES)
        if not files:
            kinds = " ".join(sorted(IMAGE_SUFFIXES))
            raise DataError(
                f"input={where}: no image ({kinds}) in this folder; for subfolders: input='{where}/**/*.jpg'"
            )
        return files
    files = sorted(Path(name) for name in glob.glob(where, recursive=True) if Path(name).is_file())
    if not files:
        raise DataError(f"input={where}: no such file or folder, and no file matches it as a glob")
    return files


def _listed_on_stdin() -> list[Path]:
    lines = sys.stdin.buffer.read().split(b"\n")
    files = [Path(os.fsdecode(line.removesuffix(b"\r"))) for line in lines if line.strip()]
    if not files:
        raise DataError(f"input={STDIN}: standard input names no file; write one path a line, such as: ls *.jpg | ...")
    return files
