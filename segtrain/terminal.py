"""What the command line hears and says: arguments in, failures out. Imports neither torch nor Hydra."""

import argparse
import itertools
import os
import re
import shlex
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from segtrain.errors import ConfigError, SegtrainError, Stopped


class ArgumentParser(argparse.ArgumentParser):
    """argparse whose errors are a `ConfigError` like any other mistake, instead of a usage text and an exit."""

    def __init__(self) -> None:
        super().__init__(prog="segtrain", add_help=False, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message} (--help shows what there is)")


def split_config_dir(argv: Sequence[str]) -> tuple[Path | None, list[str]]:
    """The folder named by `--config-dir` or None, and the other arguments.

    Raises:
        ConfigError: there is no such folder, or no name follows the option.
    """
    parser = ArgumentParser()
    add_config_dir(parser)
    args, rest = parser.parse_known_args(list(argv))
    return existing_folder(args.config_dir), rest


def add_config_dir(parser: argparse.ArgumentParser) -> None:
    """The one option shared by the commands that read configs."""
    parser.add_argument("--config-dir", "-cd", metavar="DIR")


def existing_folder(name: str | None) -> Path | None:
    """`--config-dir`'s value as an absolute path. Raises ConfigError where it is no folder."""
    if name is None:
        return None
    if not Path(name).is_dir():
        raise ConfigError(f"--config-dir {name}: no such folder")
    return Path(name).resolve()


def split_words(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Options and overrides, and the names of files and folders between them.

    A word with a `=` is an override unless a file of that name exists.
    """
    words, names = [], []
    rest = iter(argv)
    for word in rest:
        if word in ("--config-dir", "-cd"):
            words += [word, *itertools.islice(rest, 1)]
        elif re.match(r"-|~|\+{0,2}[\w./@-]+=", word) and not Path(word).exists():
            words.append(word)
        else:
            names.append(word)
    return words, names


def wants_traceback(argv: Sequence[str]) -> bool:
    """Whether `debug=true` is among the arguments."""
    return any(re.fullmatch(r"\+{0,2}debug=(true|yes|on)", word, re.IGNORECASE) for word in argv)


def report_failure(error: BaseException, argv: Sequence[str], job: str = "") -> int:
    """Say on stderr what ended a command, and return the exit code it stands for.

    A user's mistake is one line; `debug=true` in `argv` puts the traceback above it. Anything unforeseen is our bug:
    traceback, and how to report it. `job` names the job of a multirun.
    """
    where = f"{job}: " if job else ""
    if isinstance(error, SystemExit):
        return _exit_code_of(error)
    if isinstance(error, Stopped):
        print(f"segtrain: {error}", file=sys.stderr)
        return error.exit_code
    if isinstance(error, KeyboardInterrupt):
        print("segtrain: interrupted", file=sys.stderr)
        return 130  # 128 + SIGINT, what a shell reports
    if isinstance(error, BrokenPipeError) and _nobody_reads_stdout():
        return 141  # 128 + SIGPIPE, as `cat | head` ends

    ours = not isinstance(error, SegtrainError)
    if ours or wants_traceback(argv):
        traceback.print_exception(error, file=sys.stderr)
    if ours:
        print(
            f"segtrain: {where}this is a bug in segtrain, not in your configuration. Please report the lines above with"
            f" the command: segtrain {shlex.join(argv)}",
            file=sys.stderr,
        )
        return 1
    print(f"segtrain: error: {where}{error}", file=sys.stderr)
    return error.exit_code if isinstance(error, SegtrainError) else 1


def _exit_code_of(error: SystemExit) -> int:
    """As the interpreter reads it: None is success, a text is printed and stands for 1."""
    if error.code is None or isinstance(error.code, int):
        return error.code or 0
    print(error.code, file=sys.stderr)
    return 1


def _nobody_reads_stdout() -> bool:
    """Whether stdout is the broken pipe; then it is pointed at the null device, or the interpreter's exit complains."""
    try:
        print(flush=True)  # a pipe that broke elsewhere, to a worker say, is a bug of ours
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return True
    return False
