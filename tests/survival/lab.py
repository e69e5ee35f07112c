"""Trainings that a test starts, watches, kills and goes on with, each in a process of its own."""

import itertools
import json
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from segtrain.engine import checkpoint
from tests.survival.child import EVALUATING, SAVING, TRAINING
from tests.survival.fingerprint import checkpoints, differences, fingerprint

PATIENCE = 120  # seconds until a process that should have ended counts as hanging

# Eight steps, each saved, with everything that a resume could get wrong: dropout draws from torch's generator, epochs
# of three batches end within a step of two, a line of the log covers three steps, evaluations come after steps 4 and 8.
TINY = (
    *("data=shapes", "data.num_train=6", "data.num_val=4", "data.size=[32,32]", "augment.crop_size=[32,32]"),
    *("data.batch_size=2", "data.eval_batch_size=1", "data.workers=0"),
    *("model=unet", "model.batch_norm=true", "model.decoder_channels=[4,4,4,4,4]"),
    *("model.backbone.channels=[4,4,4,4,4]", "model.backbone.batch_norm=true", "model.backbone.dropout=0.2"),
    *("trainer.max_steps=8", "trainer.accumulate=2", "trainer.clip_norm=1.0", "trainer.log_every=3"),
    *("trainer.evaluate_every=4", "trainer.save_every=1", "trainer.pictures=1"),
    *("trainer.ema_decay=0.9", "trainer.ema_warmup=2", "trainer.device=cpu", "checkpoint.keep_last=2"),
)


class Process:
    """A training that runs."""

    def __init__(self, lab: "Lab", pid: int, log: Path, pipe: int | None) -> None:
        self.lab, self.pid, self.log, self.pipe = lab, pid, log, pipe
        self.phases = b""

    def wait(self, seconds: float = PATIENCE) -> int:
        """The exit code; minus the number of the signal that ended the process."""
        code = self.lab.ask({"wait": self.pid, "seconds": seconds})["code"]
        if code is None:
            os.kill(self.pid, signal.SIGKILL)
            self.lab.ask({"wait": self.pid, "seconds": PATIENCE})
            raise AssertionError(f"the training did not end within {seconds} s:\n{self.said()}")
        self.read_phases(0)
        if self.pipe is not None:
            os.close(self.pipe)
        return code

    def send(self, number: int) -> None:
        """Sends a signal; a process that has ended but was not waited for takes it in silence."""
        os.kill(self.pid, number)

    def read_phases(self, seconds: float) -> bytes:
        """The phases gone through until now, after at most `seconds` of waiting for the next."""
        if self.pipe is not None and select.select([self.pipe], [], [], seconds)[0]:
            self.phases += os.read(self.pipe, 4096)
        return self.phases

    def wait_for(self, phase: bytes, times: int) -> bool:
        """Until the phase begins for the `times`-th time; False where the training is over before."""
        deadline = time.monotonic() + PATIENCE
        while self.read_phases(0.05).count(phase) < times:
            if self.over() or time.monotonic() > deadline:
                return False
        return True

    def over(self) -> bool:
        return self.phases.endswith(b"t") or _is_zombie(self.pid)

    def phase(self) -> bytes:
        """The innermost phase the training is in; empty before and after it."""
        inside = [phase for phase in (SAVING, EVALUATING, TRAINING) if self._inside(phase)]
        return inside[0] if inside else b""

    def _inside(self, phase: bytes) -> bool:
        return self.phases.count(phase) > self.phases.count(phase.lower())

    def said(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace") if self.log.exists() else ""


class Lab:
    """Starts trainings through a fork server (`server.py`)."""

    def __init__(self, root: Path, folder: Path) -> None:
        self.folder = folder
        self._numbers = itertools.count()
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(root),
            "CUBLAS_WORKSPACE_CONFIG": ":4096:8",  # what torch's deterministic algorithms ask for, on a GPU
        }
        self._server = subprocess.Popen(
            [sys.executable, "-m", "tests.survival.server"],
            cwd=root, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert json.loads(self._read())["ready"]

    def _read(self) -> str:
        assert self._server.stdout is not None
        return self._server.stdout.readline()

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        assert self._server.stdin is not None
        self._server.stdin.write(json.dumps(request) + "\n")
        self._server.stdin.flush()
        return json.loads(self._read())

    def close(self) -> None:
        assert self._server.stdin is not None
        self._server.stdin.close()
        self._server.wait(PATIENCE)

    def new_folder(self) -> Path:
        """A run directory that does not exist yet, in a folder of its own."""
        folder = self.folder / f"{next(self._numbers):04d}"
        folder.mkdir()
        return folder / "run"

    def start(
        self, *overrides: str, phases: bool = False, environment: dict[str, str] | None = None, **plan: Any
    ) -> Process:
        number = next(self._numbers)
        log, pipe = self.folder / f"{number:04d}.log", None
        if phases:
            name = self.folder / f"{number:04d}.pipe"
            os.mkfifo(name)
            pipe = os.open(name, os.O_RDONLY | os.O_NONBLOCK)
            plan["phases"] = str(name)
        request = {"train": list(overrides), "plan": plan, "log": str(log), "environment": environment or {}}
        return Process(self, self.ask(request)["pid"], log, pipe)

    def new(self, run_dir: Path, *overrides: str, **plan: Any) -> Process:
        """A new training of `TINY`."""
        return self.start(*TINY, f"run_dir={run_dir}", *overrides, run_dir=str(run_dir), **plan)

    def go_on(self, run_dir: Path, *overrides: str, fresh: tuple[str, ...] = (), **plan: Any) -> Process:
        """Goes on with a run; one that died before its first checkpoint begins anew, with overrides `fresh`."""
        if checkpoints(run_dir):
            return self.start(f"resume={run_dir}", *overrides, run_dir=str(run_dir), **plan)
        return self.new(run_dir, "resume=auto", *fresh, *overrides, **plan)

    def finish(self, run_dir: Path, *overrides: str, fresh: tuple[str, ...] = (), **plan: Any) -> str:
        """Goes on to the end; returns the fingerprint of what the run has become."""
        process = self.go_on(run_dir, *overrides, fresh=fresh, **plan)
        code = process.wait()
        assert code == 0, f"exit code {code} of the resumed run:\n{process.said()}"
        return fingerprint(run_dir)

    def uninterrupted(self, *overrides: str, **plan: Any) -> Path:
        """The run directory of a training that nothing disturbed."""
        run_dir = self.new_folder()
        process = self.new(run_dir, *overrides, **plan)
        assert process.wait() == 0, process.said()
        return run_dir


def assert_readable(run_dir: Path) -> None:
    """Every file under a checkpoint's final name is whole."""
    for path in checkpoints(run_dir):
        checkpoint.load(path)


def assert_same(run_dir: Path, reference: Path) -> None:
    if fingerprint(run_dir) != fingerprint(reference):
        raise AssertionError(
            "not the state of the uninterrupted run:\n" + "\n".join(differences(run_dir, reference)[:20])
        )


def _is_zombie(pid: int) -> bool:
    """Whether the process has ended and is waited for by the server."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True
