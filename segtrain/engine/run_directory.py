"""The folder of one run.

RUN_DIR/
    config.yaml         the composed config, interpolations unresolved
    environment.json    versions, machine, git commit, command line
    train.log           what the terminal said
    metrics.jsonl       one line per log or evaluation
    results.json        the newest evaluation
    checkpoints/        last.pt, the ones before it as step_<step>.pt, best.pt
    nonfinite/          the batch and the state of a step whose loss or gradient was no number
    tensorboard/        event files
    pictures/           image, truth and prediction at each evaluation
"""

import contextlib
import datetime
import errno
import json
import os
import platform
import secrets
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

from segtrain import __version__
from segtrain.engine.whole_files import write_whole
from segtrain.errors import ConfigError, MachineError


class RunDirectory:
    """Names of the things in a run's folder.

    Use `create` for a new run, `RunDirectory(path)` for one that exists.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "config.yaml"
        self.environment = path / "environment.json"
        self.log = path / "train.log"
        self.metrics = path / "metrics.jsonl"
        self.results = path / "results.json"
        self.checkpoints = path / "checkpoints"
        self.last = self.checkpoints / "last.pt"
        self.best = self.checkpoints / "best.pt"
        self.nonfinite = path / "nonfinite"
        self.tensorboard = path / "tensorboard"
        self.pictures = path / "pictures"

    def step(self, step: int) -> Path:
        """The checkpoint of an earlier step that is kept beside the newest."""
        return self.checkpoints / f"step_{step:07d}.pt"

    @classmethod
    def create(cls, path: Path | None, output_root: Path, data: str, model: str, again: bool = False) -> "RunDirectory":
        """Creates a run's folder, which did not exist before.

        Args:
            path: the folder itself; None for `<output_root>/<data>/<model>/<time>-<id>`.
            output_root: see above.
            data: name of the data config.
            model: name of the model config.
            again: `path` may be the folder of a run that ended before its first checkpoint, which begins anew.

        Raises:
            ConfigError: `path` exists and is not empty, or cannot be created.
        """
        if path is None:
            # two runs may start within one second: the random end and the exclusive mkdir keep them apart
            stamp = datetime.datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
            path = output_root / data / model / f"{stamp}-{secrets.token_hex(2)}"
        directory = cls(path)
        if again and directory._never_saved():
            directory._begin_anew()
            return directory
        try:
            if path.is_dir() and not any(path.iterdir()):
                path.rmdir()
            path.parent.mkdir(parents=True, exist_ok=True)
            path.mkdir()
            directory.checkpoints.mkdir()
        except FileExistsError:
            raise directory._taken() from None
        except OSError as error:
            raise ConfigError(f"run_dir={path} cannot be created ({error.strerror}); name another folder") from None
        return directory

    def check_free(self, again: bool = False) -> None:
        """Raises ConfigError where there is something already; `create` still decides, exclusively."""
        with contextlib.suppress(OSError):  # a name that cannot be looked at: `create` says why
            used = self.path.is_file() or (self.path.is_dir() and any(self.path.iterdir()))
            if used and not (again and self._never_saved()):
                raise self._taken()

    def _never_saved(self) -> bool:
        """Whether this is the folder of a run that ended before its first checkpoint, or before all but the folder."""
        if not self.path.is_dir() or any(self.checkpoints.glob("*.pt")):
            return False
        just_made = all(child == self.checkpoints or child.name.startswith(".config") for child in self.path.iterdir())
        return self.config.is_file() or just_made

    def _begin_anew(self) -> None:
        with self.locked():
            self.metrics.unlink(missing_ok=True)
            shutil.rmtree(self.tensorboard, ignore_errors=True)
            self.checkpoints.mkdir(exist_ok=True)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """No other process trains in this folder meanwhile. The lock goes with the process, however it ends.

        Raises:
            ConfigError: another process holds it.
        """
        if fcntl is None:
            yield
            return
        # A record lock, of this process alone: loader workers are forked, and would inherit any other kind. It ends
        # when the process closes the file anywhere, so it is on one that stays open as long as the run.
        with open(self.log, "a", encoding="utf-8") as file:
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ConfigError(
                    f"{self.path}: another process is training in this folder; wait for its end, or end it"
                ) from None
            except OSError:  # a disk that knows no locks
                pass
            yield

    def _taken(self) -> ConfigError:
        """Why no run can be created here, and what to do."""
        if self.last.is_file():
            why = f"holds a run already; go on with it by resume={self.path}, or name another folder"
        elif self.path.is_dir():
            why = "exists and is not empty; name another folder, or delete what is in it"
        else:
            why = "is a file, or inside one; name a folder"
        return ConfigError(f"run_dir={self.path} {why}")


def check_output(path: Path) -> None:
    """Raises ConfigError where `output=` names no folder that could be written to; asked before the work is done."""
    there = next(folder for folder in (path, *path.parents) if folder.exists())
    if not there.is_dir():
        raise ConfigError(f"output={path}: {there} is a file; name a folder")
    if not os.access(there, os.W_OK):
        raise ConfigError(f"output={path}: {there} cannot be written to; name another folder")


def write_json(path: Path, contents: Any) -> None:
    """Writes `contents` as JSON, whole or not at all."""
    write_text(path, json.dumps(contents, indent=2, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Writes a text, whole or not at all."""
    write_whole(path, text.encode())


@contextlib.contextmanager
def full_disk_named(path: Path) -> Iterator[None]:
    """Raises MachineError where anything in the block finds no room on the disk of `path`: a log, a picture, a result.

    Checkpoints name themselves. What an OSError says of a full disk is not which file it was.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        there = next(folder for folder in (path, *path.parents) if folder.exists())
        raise MachineError(
            f"{path}: cannot be written to: {error.strerror}: {shutil.disk_usage(there).free:,} bytes are free; "
            "checkpoints saved so far are intact; free some space and go on with resume="
        ) from error


def read_json(path: Path) -> dict[str, Any]:
    """A file of `write_json`; empty where it is missing or was changed into something else."""
    try:
        contents = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return contents if isinstance(contents, dict) else {}


def changed_environment(earlier: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What floating-point results depend on and differs between two environments: `threads 2 -> 4`."""
    before, after = earlier.get("versions", {}), now["versions"]
    packages = ("torch", "torchvision", "numpy", "albumentations", "opencv-python-headless")
    pairs = {name: (before.get(name), after[name]) for name in packages}
    pairs["threads"] = (earlier.get("threads"), now["threads"])
    pairs["processes"] = (earlier.get("processes"), now["processes"])
    pairs["devices"] = (earlier.get("cuda", {}).get("devices"), now["cuda"]["devices"])
    return [f"{name} {old} -> {new}" for name, (old, new) in pairs.items() if old is not None and old != new]


def versions() -> dict[str, str]:
    """Of what a run's numbers depend on."""
    packages = ("torch", "torchvision", "hydra-core", "omegaconf", "albumentations", "numpy", "opencv-python-headless")
    installed = {package: metadata.version(package) for package in packages}
    return {"segtrain": __version__, "python": platform.python_version(), **installed}


def environment(command: list[str], processes: int) -> dict[str, Any]:
    """What one would ask about the machine, and the number of processes, if a result could not be repeated."""
    return {
        "command": command,
        "started": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "git": _git_commit(),
        "versions": versions(),
        "platform": platform.platform(),
        "cuda": {
            "available": torch.cuda.is_available(),
            "version": torch.version.cuda,
            "devices": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        },
        "threads": torch.get_num_threads(),
        "processes": processes,
        "executable": sys.executable,
    }


def _git_commit() -> dict[str, Any] | None:
    """Commit of the working directory and whether it has uncommitted changes; None outside a repository."""
    try:
        commit = _git("rev-parse", "HEAD")
        changed = _git("status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return None
    return {"commit": commit, "uncommitted_changes": bool(changed)}


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], capture_output=True, text=True, timeout=10, check=True)
    return done.stdout.strip()
