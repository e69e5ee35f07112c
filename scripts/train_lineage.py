"""Trains every model of the lineage for a few steps on the drawn shapes, and prints how the loss fell.

    python scripts/train_lineage.py
    python scripts/train_lineage.py --models unet pspnet --overrides trainer.precision=fp32

Each model runs as its own `segtrain train`, over its own backbone unless `--overrides model/backbone=...` says else.
One line each: mean loss of the first and the last five steps, and the median time of a step. Exit code 1 where a
training failed or a loss did not fall.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from segtrain.config_tree import find_groups

STEPS, BATCH_SIZE = 20, 4
RECIPE = (
    *("data=shapes", "data.size=[64,64]", "augment.crop_size=[64,64]", "data.num_train=80", "data.num_val=4"),
    *(
        f"data.batch_size={BATCH_SIZE}",
        "data.workers=0",
        f"trainer.max_steps={STEPS}",
        "trainer.log_every=1",
        "trainer.pictures=0",
    ),
    *("optimizer.lr=3e-4", "trainer.precision=bf16"),
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=list(find_groups()["model"]), help="default: all there are")
    parser.add_argument(
        "--overrides", nargs="*", default=[], help="for every training, such as model/backbone=resnet18"
    )
    arguments = parser.parse_args()
    print(f"{'model':<16} {'first 5':>8} {'last 5':>8} {'s/step':>7}", flush=True)
    failed = []
    for model in arguments.models:
        losses, seconds = train(model, arguments.overrides)
        if not losses:
            print(f"{model:<16} failed", flush=True)
        else:
            first, last = statistics.mean(losses[:5]), statistics.mean(losses[-5:])
            print(f"{model:<16} {first:>8.3f} {last:>8.3f} {seconds:>7.2f}", flush=True)
        if not losses or last >= first:
            failed.append(model)
    if failed:
        print(f"did not learn: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def train(model: str, overrides: list[str]) -> tuple[list[float], float]:
    """The loss of every step, and the median seconds of one; no losses where the training failed."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        command = [sys.executable, "-m", "segtrain", "train", f"model={model}", *RECIPE, *overrides, f"run_dir={run}"]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            print(done.stderr.strip().splitlines()[-1], file=sys.stderr)
            return [], 0.0
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if line["kind"] == "train"]
    seconds = statistics.median(BATCH_SIZE / line["images_per_second"] for line in steps)
    return [line["loss"] for line in steps], seconds


if __name__ == "__main__":
    sys.exit(main())
