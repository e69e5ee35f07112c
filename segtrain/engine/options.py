"""The `trainer` config, as a type."""

from dataclasses import dataclass
from typing import Literal

from segtrain.distributed.parallel import ParallelName
from segtrain.engine.precision import PrecisionName
from segtrain.errors import ConfigError


@dataclass(frozen=True)
class TrainerOptions:
    """How long, how often and on what a run trains; `configs/trainer/default.yaml` says what each key does.

    Raises:
        ConfigError: values that contradict each other or make no sense, a line for each.
    """

    max_steps: int | None
    max_epochs: int | None
    accumulate: int
    precision: PrecisionName
    device: str
    channels_last: bool
    clip_norm: float | None
    log_every: int
    evaluate_every: int | None
    save_every: int | None
    monitor: str | None
    monitor_mode: Literal["max", "min"]
    pictures: int
    ema_decay: float | None
    ema_warmup: float
    ema_evaluate_raw: bool
    patience: int | None
    min_gain: float
    freeze: dict[str, int] | None
    overfit_batches: int | None
    compile: bool
    max_skipped_steps: int
    dry_run: bool
    devices: int | Literal["auto"]
    parallel: ParallelName
    timeout: float

    def __post_init__(self) -> None:
        problems = []
        if (self.max_steps is None) == (self.max_epochs is None):
            problems.append(
                f"trainer.max_steps={self.max_steps} and trainer.max_epochs={self.max_epochs}: "
                "set one of them and the other to null"
            )
        smallest = dict.fromkeys(
            (
                *("max_steps", "max_epochs", "accumulate", "log_every", "evaluate_every", "save_every"),
                *("patience", "overfit_batches", "ema_warmup"),
            ),
            1,
        ) | {"pictures": 0, "max_skipped_steps": 0, "min_gain": 0}
        for key, least in smallest.items():
            value = getattr(self, key)
            if value is not None and value < least:
                problems.append(f"trainer.{key}={value} must be at least {least}")
        if self.clip_norm is not None and not self.clip_norm > 0:
            problems.append(f"trainer.clip_norm={self.clip_norm} must be positive; null clips nothing")
        if self.ema_decay is not None and not 0 < self.ema_decay < 1:
            problems.append(
                f"trainer.ema_decay={self.ema_decay} must be in (0, 1), such as 0.999; null averages nothing"
            )
        problems += self._problems_of_several_devices()
        if self.patience is not None and self.evaluate_every is None:
            problems.append("trainer.patience counts evaluations: set trainer.evaluate_every too")
        if problems:
            raise ConfigError("\n".join(problems))

    def _problems_of_several_devices(self) -> list[str]:
        problems = []
        if isinstance(self.devices, int) and self.devices < 1:
            problems.append(f"trainer.devices={self.devices} must be at least 1, or auto")
        if not self.timeout > 0:
            problems.append(f"trainer.timeout={self.timeout} must be positive, in seconds")
        if self.devices not in (1, "auto") and ":" in self.device:
            problems.append(
                f"trainer.device={self.device} is one GPU and trainer.devices={self.devices} are several; "
                "set trainer.device=cuda, and CUDA_VISIBLE_DEVICES to choose among them"
            )
        if self.parallel == "fsdp" and self.precision == "fp16":
            problems.append("trainer.parallel=fsdp knows no loss scaling: set trainer.precision=bf16 or fp32")
        if self.parallel == "fsdp" and self.freeze:
            problems.append("trainer.parallel=fsdp knows no parts that learn later: set trainer.freeze=null")
        return problems

    def steps(self, batches_per_epoch: int) -> int:
        """The length of the run in optimizer updates; an epoch's last, partial accumulation is completed."""
        if self.max_steps is not None:
            return self.max_steps
        assert self.max_epochs is not None
        return -(-self.max_epochs * batches_per_epoch // self.accumulate)
