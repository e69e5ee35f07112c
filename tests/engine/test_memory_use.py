"""What this process uses of the machine's memory."""

import sys

import pytest
import torch

from segtrain.engine.memory_use import cuda_peak, memory_scalars, peak_resident, reset_peaks, resident

CPU = torch.device("cpu")
linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="read from /proc")


@linux
def test_what_was_freed_again_is_in_the_peak_and_not_in_what_is_used() -> None:
    reset_peaks(CPU)
    before = resident()
    held = torch.ones(64 * 2**20 // 4)
    assert resident() - before > 60 * 2**20
    del held
    assert peak_resident() - before > 60 * 2**20
    reset_peaks(CPU)
    assert peak_resident() - before < 60 * 2**20


@linux
def test_the_log_gets_what_is_known() -> None:
    found = memory_scalars(CPU)
    assert set(found) == {"memory/resident"}
    assert 50 < found["memory/resident"] < 100_000  # MiB of a process with torch in it


def test_the_cpu_has_no_cuda_peak() -> None:
    assert cuda_peak(CPU) is None


@pytest.mark.gpu
def test_the_cuda_peak_is_what_tensors_took() -> None:
    device = torch.device("cuda")
    reset_peaks(device)
    before = cuda_peak(device)
    held = torch.ones(2**20, device=device)
    del held
    assert cuda_peak(device) - before >= 4 * 2**20
