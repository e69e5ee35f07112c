"""Every step of every write into a run directory, as an event at which a training can be made to die."""

import builtins
import errno
import io
import os
import shutil
import signal
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import torch

# Eight moments in the writing of one file, in their order.
POINTS = (
    "serialise:before",
    "serialise:after",
    "open:after",
    "write:half",
    "fsync:before",
    "rename:before",
    "rename:after",
    "folder:after",
)


class Disk:
    """Watches the files directly in a run directory and in its `checkpoints`; kills the process at a chosen event.

    An event is `<operation>:<when>`. Operations are serialise (`torch.save`), open, write, fsync, folder (fsync of a
    folder), rename, link and unlink; `write:half` is when the first half of what is written has reached the file.
    Events belong to the save they come in: the `save`-th call of `torch.save` in step `step`, both 0 before the first.

    Args:
        folder: the run directory.
        plan: see `child.prepare`. `crash` = {"step", "save", "event"}: the first such event is the process's last.
            A key left out matches anything, and `step` matches later steps too; `index` instead counts the process's
            events from 0. `power`: a crash also takes what the machine had not yet put on the disk. "unsynced":
            of what was written and not fsynced half is lost. "unsynced, renames": renames whose folder was not fsynced
            are undone as well.
    """

    def __init__(self, folder: Path, plan: dict[str, Any]) -> None:
        self.folders = {str(folder.absolute()), str((folder / "checkpoints").absolute())}
        self.crash: dict[str, Any] | None = plan.get("crash")
        self.power: str = plan.get("power", "")
        self.fill: dict[str, Any] | None = plan.get("fill")
        self.record = open(plan["record"], "a", encoding="utf-8") if "record" in plan else None  # noqa: SIM115
        self.vault = folder.absolute().parent / f".vault-{os.getpid()}"
        self.step = self.save = self.events = 0
        self.left: int | None = None  # bytes that a full disk without a mount of its own still takes
        self.synced: dict[str, int] = {}  # bytes of every file written that a power cut leaves
        self.renames: list[tuple[str, str, str | None]] = []  # from, to, the file that was there before
        self.real = {name: getattr(os, name) for name in ("fsync", "replace", "rename", "link", "unlink", "remove")}
        self.open = builtins.open

    def watch(self) -> None:
        builtins.open = io.open = self._open
        os.fsync = self._fsync
        os.replace = self._renaming(self.real["replace"])
        os.rename = self._renaming(self.real["rename"])
        os.link = self._link
        os.unlink = self._removing(self.real["unlink"])
        os.remove = self._removing(self.real["remove"])
        torch.save = self._serialising(torch.save)

    def event(self, name: str, path: str = "") -> None:
        if self.record is not None:
            self.record.write(f"{self.step} {self.save} {name} {os.path.basename(path)}\n")
            self.record.flush()
        if self.crash is not None and self._is_the_end(name):
            self._die()
        if self.fill is not None and (self.step, name) == (self.fill["step"], self.fill["event"]):
            self._fill()
        self.events += 1

    def _is_the_end(self, name: str) -> bool:
        assert self.crash is not None
        return (
            self.events == self.crash.get("index", self.events)
            and name == self.crash.get("event", name)
            and self.save == self.crash.get("save", self.save)
            and self.step >= self.crash.get("step", self.step)
        )

    def _die(self) -> NoReturn:
        if self.power:
            if "renames" in self.power:
                for source, target, before in reversed(self.renames):
                    if os.path.exists(target):
                        self.real["replace"](target, source)
                    if target in self.synced:
                        self.synced[source] = self.synced.pop(target)
                    if before is not None:
                        self.real["replace"](before, target)
            for path, synced in self.synced.items():
                if os.path.exists(path) and (size := os.path.getsize(path)) > synced:
                    os.truncate(path, synced + (size - synced) // 2)
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError("unreachable")

    def _fill(self) -> None:
        assert self.fill is not None
        fill, self.fill = self.fill, None
        if "folder" in fill:
            fill_up(Path(fill["folder"]), fill["leave"])
        else:
            self.left = fill["leave"]

    def _watched(self, path: Any) -> bool:
        return isinstance(path, str | os.PathLike) and os.path.dirname(os.path.abspath(os.fspath(path))) in self.folders

    def _open(self, path: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        before = os.path.getsize(path) if "a" in mode and os.path.exists(path) else 0
        file = self.open(path, mode, *args, **kwargs)
        if not (set(mode) & set("wxa+") and self._watched(path)) or str(path).endswith(".log"):
            return file
        name = os.path.abspath(path)
        self.synced[name] = before
        self.event("open:after", name)
        return Watched(file, name, self)

    def _fsync(self, descriptor: Any) -> None:
        number = descriptor if isinstance(descriptor, int) else descriptor.fileno()
        name = os.readlink(f"/proc/self/fd/{number}")
        is_folder = stat.S_ISDIR(os.fstat(number).st_mode)
        operation = "folder" if is_folder else "fsync"
        self.event(f"{operation}:before", name)
        self.real["fsync"](number)
        if is_folder:
            self.renames = [rename for rename in self.renames if os.path.dirname(rename[1]) != name]
        else:
            self.synced[name] = os.path.getsize(name)
        self.event(f"{operation}:after", name)

    def _renaming(self, rename: Callable[..., None]) -> Callable[..., None]:
        def watched(source: Any, target: Any, **kwargs: Any) -> None:
            if not self._watched(target):
                return rename(source, target, **kwargs)
            old, new = os.path.abspath(source), os.path.abspath(target)
            self.event("rename:before", new)
            kept = self._keep(new)
            rename(source, target, **kwargs)
            self.renames.append((old, new, kept))
            self.synced.pop(new, None)
            if old in self.synced:
                self.synced[new] = self.synced.pop(old)
            self.event("rename:after", new)
            return None

        return watched

    def _keep(self, path: str) -> str | None:
        """Another name for a file about to be replaced, so that a lost rename can bring it back."""
        if "renames" not in self.power or not os.path.exists(path):
            return None
        self.vault.mkdir(exist_ok=True)
        kept = str(self.vault / str(len(os.listdir(self.vault))))
        self.real["link"](path, kept)
        return kept

    def _link(self, source: Any, target: Any, **kwargs: Any) -> None:
        self.event("link:before", os.fspath(target))
        self.real["link"](source, target, **kwargs)
        self.event("link:after", os.fspath(target))

    def _removing(self, remove: Callable[..., None]) -> Callable[..., None]:
        def watched(path: Any, **kwargs: Any) -> None:
            if not self._watched(path) or not os.path.exists(path):
                return remove(path, **kwargs)
            self.event("unlink:before", os.fspath(path))
            remove(path, **kwargs)
            self.synced.pop(os.path.abspath(path), None)
            self.event("unlink:after", os.fspath(path))
            return None

        return watched

    def _serialising(self, serialise: Callable[..., None]) -> Callable[..., None]:
        def watched(contents: Any, *args: Any, **kwargs: Any) -> None:
            if not isinstance(contents, dict):  # how torch pickles a tensor that is sent to another rank
                return serialise(contents, *args, **kwargs)
            step = contents["state"]["step"]
            self.save = self.save + 1 if step == self.step else 1
            self.step = step
            self.event("serialise:before")
            serialise(contents, *args, **kwargs)
            self.event("serialise:after")
            return None

        return watched


class Watched:
    """A file opened for writing, whose writes are events."""

    def __init__(self, file: Any, name: str, disk: Disk) -> None:
        self._file, self._name, self._disk = file, name, disk

    def write(self, data: Any) -> int:
        if self._disk.left is not None:
            if len(data) > self._disk.left:
                self._file.write(data[: self._disk.left])
                self._file.flush()
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self._disk.left -= len(data)
        half = len(data) // 2
        written = self._file.write(data[:half])
        self._file.flush()
        self._disk.event("write:half", self._name)
        written += self._file.write(data[half:])
        self._disk.event("write:after", self._name)
        return written

    def __enter__(self) -> "Watched":
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def fill_up(folder: Path, leave: int) -> None:
    """Writes `folder`/ballast so that `leave` bytes are free on that disk."""
    with open(folder / "ballast", "ab") as ballast:
        ballast.write(bytes(max(0, shutil.disk_usage(folder).free - leave)))
