"""What the machine may lack for reading data in worker processes: said in one line, with the remedy."""

import errno
import re
import shutil
from pathlib import Path

from segtrain.errors import MachineError

_SHARED_MEMORY = Path("/dev/shm")  # where Linux keeps it

# As PIL, numpy, OpenCV and torch put it.
_OUT_OF_MEMORY = re.compile(
    r"not enough memory|can.?t allocate memory|cannot allocate memory|insufficient memory", re.I
)


def out_of_memory(error: BaseException) -> bool:
    return isinstance(error, MemoryError) or bool(_OUT_OF_MEMORY.search(str(error)))


def shortage(error: BaseException) -> MachineError | None:
    """The error for an exception out of starting workers or sending batches between processes.

    Returns:
        None where the exception says of nothing that the machine lacks it.
    """
    number, text = getattr(error, "errno", None), str(error)
    if number == errno.ENOSPC or "No space left on device" in text:
        return MachineError(shared_memory_is_short())
    if number in (errno.EMFILE, errno.ENFILE) or "Too many open files" in text or "items of ancdata" in text:
        return MachineError(
            "the loader's workers and this process have too many files open, because every batch on its way is one; "
            "raise the limit (ulimit -n 65536), lower data.workers, or set data.workers=0"
        )
    if number == errno.EAGAIN or out_of_memory(error):
        return MachineError(f"no memory or process left for the loader's workers ({text}); lower data.workers")
    return None


def shared_memory_is_short() -> str:
    """What to do about it, and how large it is where that can be seen."""
    size = ""
    if _SHARED_MEMORY.is_dir():
        usage = shutil.disk_usage(_SHARED_MEMORY)
        size = f": {usage.free / 2**20:,.1f} of {usage.total / 2**20:,.1f} MiB are free in {_SHARED_MEMORY}"
    return (
        f"shared memory is too small for the batches that the loader's workers send{size}; enlarge it (docker run "
        "--shm-size=8g, or --ipc=host), lower data.workers or data.batch_size, or set data.workers=0, which needs none"
    )
