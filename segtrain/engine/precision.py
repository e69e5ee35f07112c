"""Device, number format and memory layout of a run."""

import random
from typing import Any, Literal

import numpy as np
import torch

from segtrain.distributed.place import Place
from segtrain.errors import ConfigError
from segtrain.types import Hardware

PrecisionName = Literal["fp32", "bf16", "fp16"]


def choose_hardware(device: str, precision: PrecisionName, channels_last: bool) -> Hardware:
    """Turns the config's words into a `Hardware`.

    Args:
        device: `auto` (CUDA where there is one), `cpu`, `cuda` or `cuda:<index>`.
        precision: `fp32`, `bf16` (CUDA from Ampere on, and CPUs) or `fp16` (CUDA only).
        channels_last: NHWC layout, usually the faster one for convolutions.

    Raises:
        ConfigError: the device is not there or cannot compute in that precision.
    """
    name = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    try:
        chosen = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"trainer.device={device!r} is no device; use auto, cpu, cuda or cuda:0") from None
    if chosen.type not in ("cpu", "cuda"):
        raise ConfigError(f"trainer.device={device!r} is not supported; use auto, cpu, cuda or cuda:0")
    if chosen.type == "cuda":
        if not torch.cuda.is_available():
            raise ConfigError(f"trainer.device={device} but this machine has no CUDA device; use trainer.device=cpu")
        if (chosen.index or 0) >= torch.cuda.device_count():
            count = torch.cuda.device_count()
            raise ConfigError(f"trainer.device={device} but this machine has {count} CUDA device(s), numbered from 0")
        if precision == "bf16" and not torch.cuda.is_bf16_supported(including_emulation=False):
            raise ConfigError("trainer.precision=bf16 is not supported by this GPU; use trainer.precision=fp16")
    elif precision == "fp16":
        raise ConfigError("trainer.precision=fp16 needs CUDA; use bf16 or fp32 on the CPU")
    return Hardware(
        device=chosen,
        autocast_dtype={"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[precision],
        memory_format=torch.channels_last if channels_last else torch.contiguous_format,
        loss_scaling=precision == "fp16",
    )


def count_devices(device: str, devices: int | Literal["auto"]) -> int:
    """How many processes `trainer.device` and `trainer.devices` ask for on this machine. Creates no CUDA context.

    Raises:
        ConfigError: more than there are GPUs.
    """
    gpus = torch.cuda.device_count() if device == "cuda" or (device == "auto" and torch.cuda.is_available()) else 0
    if devices == "auto":
        return max(gpus, 1)
    if 0 < gpus < devices:
        raise ConfigError(f"trainer.devices={devices} but this machine has {gpus} CUDA device(s)")
    return devices


def own_device(device: str, place: Place) -> torch.device:
    """The device of one of several processes: on a machine with GPUs, the one of its local rank.

    Raises:
        ConfigError: there is none for it.
    """
    if device == "cpu" or (device == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if device not in ("auto", "cuda"):
        raise ConfigError(f"trainer.device={device} with {place.size} processes: set auto, cuda or cpu")
    gpus = torch.cuda.device_count()
    # Slurm may show each process its own GPU alone, which is then number 0 for all.
    index = 0 if gpus == 1 and place.started_by == "Slurm" else place.local_rank
    if index >= gpus:
        raise ConfigError(
            f"trainer.device={device}: this machine has {gpus} CUDA device(s), and {place.started_by} started a "
            f"process with local rank {place.local_rank}; start one for each, or set trainer.device=cpu"
        )
    torch.cuda.set_device(index)
    return torch.device("cuda", index)


def seed_everything(seed: int) -> None:
    """Seeds the global generators of Python, NumPy and torch (all devices)."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def random_state() -> dict[str, Any]:
    """The global generators as plain values and tensors, fit for a checkpoint.

    NumPy's is left out: nothing that touches a run draws from it, and its state is a NumPy array, which
    `torch.load(weights_only=True)` rejects.
    """
    state: dict[str, Any] = {"python": random.getstate(), "torch": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def restore_random_state(state: dict[str, Any]) -> None:
    """The inverse of `random_state`; a CUDA state is restored where the number of devices is the same."""
    random.setstate(state["python"])
    torch.set_rng_state(state["torch"])
    cuda = state.get("cuda", [])
    if cuda and torch.cuda.is_available() and len(cuda) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(cuda)
