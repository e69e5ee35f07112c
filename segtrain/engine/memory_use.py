"""How much memory this process uses: resident on the machine, and allocated on a CUDA device."""

import sys
from pathlib import Path

import torch

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")  # Linux alone has them


def resident() -> int | None:
    """Bytes of this process that lie in the machine's memory now; None where the system does not say."""
    return _from_status("VmRSS")


def peak_resident() -> int | None:
    """The most bytes that `resident` has been since `reset_peaks`, or, where that cannot be reset, ever."""
    peak = _from_status("VmHWM")
    if peak is None and sys.platform != "win32":
        import resource

        used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        peak = used if sys.platform == "darwin" else used * 1024
    return peak


def cuda_peak(device: torch.device) -> int | None:
    """The most bytes that tensors took on a CUDA device since `reset_peaks`; None for another device."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None


def memory_scalars(device: torch.device) -> dict[str, float]:
    """For the log, in MiB: `memory/resident` now, and `memory/cuda_peak` since the last call. What is not known is left
    out."""
    found = {"memory/resident": resident(), "memory/cuda_peak": cuda_peak(device)}
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    return {name: number / 2**20 for name, number in found.items() if number is not None}


def reset_peaks(device: torch.device) -> None:
    """Lets both peaks begin at what is used now."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    try:
        _RESET.write_text("5")  # proc(5): resets VmHWM
    except OSError:
        return


def _from_status(name: str) -> int | None:
    try:
        lines = _STATUS.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return None
    found = next((line for line in lines if line.startswith(f"{name}:")), None)
    return int(found.split()[1]) * 1024 if found else None
