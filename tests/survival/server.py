"""A process that has imported everything once and forks a training for each line it is sent.

Importing torch and albumentations takes seconds, a training of these tests one. The server itself runs no torch
operation and starts no thread, so that its children are as good as new processes.

Lines on standard input, and the line that answers each:
    {"train": [overrides], "plan": {...}, "log": file, "environment": {...}}
                                       -> {"pid": n}; `plan` is what `child.prepare` takes
    {"wait": pid, "seconds": limit}    -> {"code": exit code, minus the signal that ended it, or null}
"""

import json
import os
import sys
import time
from typing import Any


def main() -> int:
    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
    import albumentations  # noqa: F401
    from torch.utils.tensorboard import SummaryWriter  # noqa: F401

    import segtrain.backbones.unet_encoder
    import segtrain.commands.train
    import segtrain.data.shapes
    import segtrain.models.unet  # noqa: F401

    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        if "wait" in request:
            answer: dict[str, Any] = {"code": _wait(request["wait"], request["seconds"])}
        else:
            pid = os.fork()
            if pid == 0:
                return _train(request)
            answer = {"pid": pid}
        print(json.dumps(answer), flush=True)
    return 0


def _train(request: dict[str, Any]) -> int:
    """One training in the forked child, with the exit code of the command line."""
    for descriptor, name, flags in ((0, os.devnull, os.O_RDONLY), (1, request["log"], os.O_WRONLY | os.O_CREAT)):
        opened = os.open(name, flags | os.O_APPEND)
        os.dup2(opened, descriptor)
        os.close(opened)
    os.dup2(1, 2)
    os.environ.update(request["environment"])
    from segtrain.cli import main as segtrain
    from tests.survival.child import prepare

    prepare(request["plan"])
    return segtrain(["train", *request["train"]])


def _wait(pid: int, seconds: float) -> int | None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    return None


if __name__ == "__main__":
    sys.exit(main())
