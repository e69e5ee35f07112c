"""`segtrain checkpoint inspect|strip|verify FILE ...`: what is in checkpoints, less of it, whether they are sound."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from segtrain import compose
from segtrain.analysis.table import aligned, mebibytes
from segtrain.compose import Job
from segtrain.engine import stripped
from segtrain.engine.contents import Contents
from segtrain.errors import CheckpointError, ConfigError, SegtrainError, nearest
from segtrain.load import check_average, check_parts
from segtrain.options import read_options
from segtrain.terminal import split_words

ACTIONS = ("inspect", "strip", "verify")


@dataclass(frozen=True)
class FilesOptions:
    """The command's own keys; `configs/checkpoint.yaml` says what each does."""

    format: Literal["table", "json"]
    output: str | None
    overwrite: bool
    debug: bool


def run(argv: Sequence[str]) -> int:
    """Raises ConfigError where no action or no file is named, and what the action raises."""
    words, files = split_words(argv)
    action = files.pop(0) if files else ""
    if action not in ACTIONS:
        hint = f", not {action!r}{nearest(action, ACTIONS)}" if action else ""
        raise ConfigError(f"say what to do: segtrain checkpoint {'|'.join(ACTIONS)} FILE ...{hint}")
    if not files:
        raise ConfigError(f"segtrain checkpoint {action}: name a file, such as RUN_DIR/checkpoints/best.pt")
    paths = [Path(name) for name in files]

    def task(job: Job) -> None:
        options = read_options(job.config, FilesOptions)
        if action == "inspect":
            _inspect(paths, options)
        elif action == "strip":
            _strip(paths, options)
        else:
            _verify(paths, options)

    return compose.run_command("checkpoint", words, task)


def _inspect(paths: list[Path], options: FilesOptions) -> None:
    problems: list[str] = []
    found: list[Contents] = []
    for path in paths:
        try:
            found.append(Contents.read(path))
        except CheckpointError as error:
            problems.append(str(error))
    if options.format == "json":
        print(json.dumps([one.as_dict() for one in found], indent=2))
    elif found:
        print("\n\n".join(map(_table, found)))
    if problems:
        raise CheckpointError("\n".join(problems))


def _table(found: Contents) -> str:
    rows = [[name, text] for name, text in found.rows()]
    width = max(len(name) for name, _ in rows)
    lines = "\n".join(f"  {name:<{width}}  {text}" for name, text in rows)
    return f"{found.path}: {mebibytes(found.size)}, SHA-256 sound\n{lines}"


def _strip(paths: list[Path], options: FilesOptions) -> None:
    if options.output is not None and len(paths) > 1:
        raise ConfigError(f"output={options.output} is one file for {len(paths)}; leave it out, or strip one by one")
    targets = [Path(options.output) if options.output else path.with_name(f"stripped_{path.name}") for path in paths]
    for path, target in zip(paths, targets, strict=True):
        _check_target(path, target, options.overwrite)
    for path, target in zip(paths, targets, strict=True):
        contents = stripped.load(path)
        check_parts(contents, path, *stripped.PARTS)
        check_average(contents, path)
        stripped.save_stripped(stripped.strip(contents), target)
        before, after = path.stat().st_size, target.stat().st_size
        print(f"written: {target}, {mebibytes(after)} of {mebibytes(before)}")


def _check_target(path: Path, target: Path, overwrite: bool) -> None:
    if target.suffix not in stripped.SUFFIXES:
        raise ConfigError(f"output={target}: give a name that ends in {' or '.join(stripped.SUFFIXES)}")
    if target.is_dir() or not target.parent.is_dir():
        raise ConfigError(f"output={target}: name a file in a folder that exists")
    if target.exists() and path.exists() and target.samefile(path):
        raise ConfigError(f"output={target} is the file to strip itself; name another")
    if target.exists() and not overwrite:
        raise ConfigError(f"{target} exists; name another file by output=, or set overwrite=true")


@dataclass(frozen=True)
class _Verdict:
    """What became of reading one file: its step and size, or why it cannot be read."""

    path: Path
    step: int | None = None
    size: int = 0
    problem: str | None = None


def _verify(paths: list[Path], options: FilesOptions) -> None:
    verdicts = [_verdict(path) for path in _all_files(paths)]
    if options.format == "json":
        print(json.dumps([_plain(one) for one in verdicts], indent=2))
    else:
        rows = [["sound" if one.problem is None else "unsound", str(one.path), *_details(one)] for one in verdicts]
        print(aligned(["", "file", "step", "size"], rows, left=(0, 1)))
    problems = [one.problem for one in verdicts if one.problem is not None]
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise CheckpointError(f"{len(problems)} of {len(verdicts)} files cannot be trusted: {problems[0]}{more}")


def _details(one: _Verdict) -> list[str]:
    return ["" if one.step is None else str(one.step), mebibytes(one.size)]


def _plain(one: _Verdict) -> dict[str, Any]:
    return {"file": str(one.path), "sound": one.problem is None, "step": one.step, "problem": one.problem}


def _verdict(path: Path) -> _Verdict:
    size = path.stat().st_size if path.exists() else 0
    try:
        return _Verdict(path, Contents.read(path).step, size)
    except SegtrainError as error:
        return _Verdict(path, size=size, problem=str(error))


def _all_files(paths: Sequence[Path]) -> Iterator[Path]:
    """The files named, and those of the run folders, or folders of checkpoints, that are named."""
    for path in paths:
        if not path.is_dir():
            yield path
            continue
        folders = [folder for name in ("checkpoints", "nonfinite") if (folder := path / name).is_dir()] or [path]
        files = [file for folder in folders for file in sorted(folder.iterdir()) if file.suffix in stripped.SUFFIXES]
        if not files:
            raise CheckpointError(f"{path}: no checkpoint ({', '.join(stripped.SUFFIXES)}) in this folder")
        yield from files
