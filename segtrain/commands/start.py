"""What a training begins with: a config as composed, or a run as saved."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from segtrain.compose import Job
from segtrain.engine import checkpoint
from segtrain.engine.checkpoint_folder import candidates, newest_sound
from segtrain.engine.run_directory import RunDirectory
from segtrain.errors import CheckpointError, ConfigError
from segtrain.load import check_no_weights, check_parts
from segtrain.saved_config import apply_overrides, choices_on_top

# What a checkpoint must hold for a run to go on as if it had never stopped.
RESUMED_PARTS = ("config", "choices", "model", "criterion", "optimizer", "scaler", "state")


@dataclass(frozen=True)
class Start:
    """What a run begins with.

    Attributes:
        config: composed or saved, unresolved.
        choices: config group -> option, for names and messages.
        checkpoint: to go on from; None for a new run.
    """

    config: DictConfig
    choices: dict[str, str]
    checkpoint: "Saved | None" = None

    def handed_over(self) -> "Start":
        """For another process: without the checkpoint's contents, which that reads for itself (`received`)."""
        return replace(self, checkpoint=self.checkpoint and replace(self.checkpoint, contents={}))

    def received(self) -> "Start":
        """What was handed over, made whole again."""
        saved = self.checkpoint
        return replace(self, checkpoint=saved and replace(saved, contents=checkpoint.load(saved.path)))


@dataclass(frozen=True)
class Saved:
    """A checkpoint of a run that is gone on with: its file, its contents, its run directory, and when it was read."""

    path: Path
    contents: dict[str, Any]
    directory: RunDirectory
    stamp: tuple[int, ...]

    def check_newest(self) -> None:
        """Raises CheckpointError where another process has saved since; called once the folder is locked."""
        if _stamp(self.directory) != self.stamp:
            raise CheckpointError(
                f"{self.directory.path}: another process has saved since {self.path.name} was read; "
                "run the command again"
            )


def _stamp(directory: RunDirectory) -> tuple[int, ...]:
    """What changes when `last.pt` is written."""
    if not directory.last.is_file():
        return ()
    status = directory.last.stat()
    return status.st_ino, status.st_mtime_ns, status.st_size


def start_of(job: Job) -> Start:
    """What the command line asks for: a new run, one to go on with, or (`auto`) whichever there is."""
    if not job.config.resume:
        return Start(job.config, job.choices)
    if job.config.resume != "auto":
        return _resumed(job)
    if job.config.run_dir is None:
        raise ConfigError("resume=auto: it goes on with the run in run_dir where there is one: set run_dir=FOLDER too")
    directory = RunDirectory(Path(job.config.run_dir))
    if not candidates(directory):
        return Start(job.config, job.choices)
    # The same command line as before describes the whole run, so that its config counts, not the stored one.
    return Start(job.config, job.choices, _newest(directory))


def _newest(directory: RunDirectory) -> Saved:
    stamp = _stamp(directory)
    path, contents = newest_sound(directory)
    check_parts(contents, path, *RESUMED_PARTS)
    return Saved(path, contents, directory, stamp)


def _resumed(job: Job) -> Start:
    """The run directory's own config with this command's overrides on top, and its newest checkpoint."""
    path = Path(job.config.resume)
    if not path.is_dir():
        raise CheckpointError(f"resume={path}: no such folder; name a run's folder, the one that holds config.yaml")
    directory = RunDirectory(path)
    if not directory.config.is_file():
        raise CheckpointError(f"resume={path}: {directory.config.name} is missing; is it a run's folder?")
    if any(key.lstrip("+") == "run_dir" for key, _ in job.saved_overrides):
        raise ConfigError(f"run_dir: a resumed run stays in {path}; leave run_dir out, or copy the folder")
    if not candidates(directory):
        raise CheckpointError(f"resume={path}: it holds no checkpoint, so there is nothing to go on from; start anew")
    newest = _newest(directory)
    try:
        saved = OmegaConf.load(directory.config)
    except OSError:  # what OmegaConf raises for a file that is neither a mapping nor a list
        saved = OmegaConf.create([])
    if not isinstance(saved, DictConfig) or "model" not in saved:
        raise ConfigError(f"{directory.config}: no config of a training")
    config, changed = apply_overrides(saved, job)
    check_no_weights(job)
    return Start(config, choices_on_top(newest.contents["choices"], changed), newest)
