"""Writes `tests/golden/<family>.json`: the losses of 20 steps of a model of each family, for a test to hold against.

    python scripts/make_golden_curves.py                     # all
    python scripts/make_golden_curves.py --family unet       # one

Each is trained from scratch on 64x64 shapes in batches of two, in fp32, on the CPU. A file says which versions made it;
the test holds the code to it where these are installed. Made anew only where a change is meant to change the numbers.

Kernels for other CPUs and other numbers of threads add in another order, and training makes small differences grow:
with two threads instead of one and with ONEDNN_MAX_CPU_ISA=AVX2, curves like these moved by at most 1.4e-4 of a loss,
with a momentum of 0.85 instead of 0.9 by 3.8e-4 to 8e-2. For that the rates are small, and norms over one value a
picture (behind a pooling of the whole picture, in batches of two) are frozen: with those learning, and rates of 1e-3,
curves moved by up to 0.2 from one kind of kernel to another.

`--compare` trains once more and prints how far curves are from the files, as the largest |a - b| / b of any step.
"""

import argparse
import contextlib
import io
import json
import tempfile
from pathlib import Path

from segtrain.cli import main as segtrain
from segtrain.engine.run_directory import versions

FOLDER = Path(__file__).resolve().parents[1] / "tests" / "golden"
DATA = (
    *("data=shapes", "data.num_train=40", "data.num_val=2", "data.size=[64,64]", "augment.crop_size=[64,64]"),
    *("data.batch_size=2", "data.workers=0", "seed=0"),
)
LOOP = (
    *("trainer.max_steps=20", "trainer.evaluate_every=null", "trainer.log_every=1", "trainer.pictures=0"),
    *("trainer.device=cpu", "trainer.precision=fp32", "optimizer=sgd"),
)
RESNET = ("model/backbone=resnet18",)
FINE = (*RESNET, "model.backbone.output_stride=8", "model.channels=32")
# One member of each family of models; over a backbone of few layers where it has a choice.
RECIPES: dict[str, tuple[str, ...]] = {
    "fcn": ("model=fcn", *RESNET, "optimizer.lr=1e-5"),
    "deeplabv1": ("model=deeplabv1", "optimizer.lr=1e-4"),
    "unet": (
        *("model=unet", "model.decoder_channels=[64,32,16,8,8]", "model.backbone.channels=[8,16,32,64,64]"),
        "optimizer.lr=1e-4",
    ),
    "deeplabv2": ("model=deeplabv2", *RESNET, "optimizer.lr=1e-5"),
    "fcdensenet": ("model=fcdensenet56", "optimizer.lr=1e-4"),
    "pspnet": (
        *("model=pspnet", *RESNET, "model.channels=64", "model.frozen_norm=[pyramid.levels.0]"),
        "optimizer.lr=1e-5",
    ),
    "deeplabv3": ("model=deeplabv3", *FINE, "model.frozen_norm=[aspp.branches.4]", "optimizer.lr=1e-5"),
    "deeplabv3plus": ("model=deeplabv3plus", *FINE, "model.frozen_norm=[aspp.branches.4]", "optimizer.lr=1e-5"),
    "upernet": ("model=upernet", *FINE, "model.frozen_norm=[pyramid.levels.0]", "optimizer.lr=1e-5"),
}


def curve(family: str) -> list[float]:
    """The loss of each of 20 steps.

    Raises:
        RuntimeError: the training failed; with what it said.
    """
    said = io.StringIO()
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
            code = segtrain(["train", *DATA, *LOOP, *RECIPES[family], f"run_dir={run}"])
        if code != 0:
            raise RuntimeError(said.getvalue())
        records = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return [record["loss"] for record in records if record["kind"] == "train"]


def difference(losses: list[float], golden: list[float]) -> float:
    """The largest relative difference of any step."""
    return max(abs(ours - theirs) / theirs for ours, theirs in zip(losses, golden, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", choices=RECIPES, action="append")
    parser.add_argument("--compare", action="store_true", help="write nothing; print how far from the files")
    args = parser.parse_args()
    FOLDER.mkdir(exist_ok=True)
    for family in args.family or RECIPES:
        path, losses = FOLDER / f"{family}.json", curve(family)
        if args.compare:
            print(f"{family:<14} {difference(losses, json.loads(path.read_text(encoding='utf-8'))['losses']):.1e}")
            continue
        made_with = {name: version for name, version in versions().items() if name not in ("segtrain", "python")}
        path.write_text(json.dumps({"versions": made_with, "losses": losses}, indent=1) + "\n", encoding="utf-8")
        print(f"{family}: {losses[0]:.4f} ... {losses[-1]:.4f}")


if __name__ == "__main__":
    main()
