"""Makes tests/golden/FAMILY.json: the losses of 20 steps of each model family, which tests/system compares with.

    python scripts/make_golden_curves.py
    python scripts/make_golden_curves.py --family unet
    python scripts/make_golden_curves.py --measure

Run it where a change is meant to change what is learnt, or when constraints.txt changes, and look at the difference
before it is committed. Each curve comes from one `segtrain train` on the CPU in fp32, whose overrides stand in the file
with the versions it was made with; on other versions the test does not compare.

TOLERANCE lies between what kernels and what changes move, as `--measure` prints it (the largest relative difference of
any loss, over all families):

    2 threads instead of 1                                                  0.2e-6 to 1e-5
    torch's, oneDNN's kernels for AVX2 and for SSE                          0 to 1.5e-6
    OpenCV and NumPy without AVX-512: none; without AVX2 (before 2013)      other pixels, up to 1.1e-4
    momentum 0.85 for 0.9                                                   5.9e-4 to 2.5e-2
    power 0.8 for 0.9 in the schedule, initial weights 2 % larger           2.4e-4 to 3e-2
    label smoothing 0.01; constant schedule; no flip; a norm dropped        7e-4 to 0.24
    running statistics that follow half as fast                             3.4e-4 to 4.7e-2 (the evaluation alone)

Training makes small differences grow, the faster the larger the steps: with rates of 1e-4 over a ResNet-18 and all
norms learning, kernels moved losses by up to 0.13, as much as that momentum did. Hence small rates, shallow backbones
with many values under each norm, and a frozen norm where it would see two. What the curves are blind to: a weight decay
of 1e-4 left out moves them less than TOLERANCE.
"""

import argparse
import contextlib
import io
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # else it asks the network for its newest version

from torch import nn

from segtrain.build import Builder
from segtrain.cli import main as segtrain
from segtrain.engine.run_directory import versions

FOLDER = Path(__file__).resolve().parents[1] / "tests" / "golden"

# Relative, of every loss: what another CPU's kernels may move it by, see above.
TOLERANCE = 1e-4

COMMON = (
    *("seed=0", "data=shapes", "data.size=[64,64]", "data.num_train=40", "data.num_val=2", "data.drawing_seed=0"),
    *("data.batch_size=2", "data.workers=0", "augment=light", "augment.crop_size=[64,64]", "loss=cross_entropy"),
    *("optimizer=sgd", "optimizer.lr=1e-4", "optimizer.momentum=0.9", "schedule=poly", "trainer.device=cpu"),
    *("trainer.max_steps=20", "trainer.log_every=1", "trainer.evaluate_every=null", "trainer.pictures=0"),
    *("trainer.precision=fp32", "trainer.accumulate=1", "trainer.devices=1"),
)
# U-Net's encoder with a BatchNorm after each convolution, strides 1 to 8.
LIGHT = (
    *("model/backbone=unet", "model.backbone.channels=[8,16,32,64]", "model.backbone.batch_norm=true"),
    "model.backbone.dropout=0",
)
LIGHT_FOR_DILATED = (*LIGHT, "~model.backbone.output_stride")  # it ends at stride 8 by itself
FAMILIES: dict[str, tuple[str, ...]] = {
    "fcn": ("model=fcn", *LIGHT_FOR_DILATED),
    "unet": ("model=unet", *LIGHT, "model.decoder_channels=[32,16,8]", "model.batch_norm=true"),
    "fcdensenet": (
        *("model=fcdensenet56", "model.growth_rate=4", "model.layers=[2,2,2,2,2]", "model.bottleneck_channels=8"),
        *("model.backbone.growth_rate=4", "model.backbone.layers=[2,2,2,2,2,2]", "model.backbone.first_channels=16"),
    ),
    # The one over a ResNet, dilated to stride 8; its gradients are a few times longer.
    "deeplabv1": ("model=deeplabv1", "model/backbone=resnet18", "optimizer.lr=1e-5"),
    "deeplabv2": ("model=deeplabv2", *LIGHT_FOR_DILATED),
    # Frozen is the norm after what is pooled to one cell. Over the two values of a batch of two it gives their sign,
    # and where they are nearly equal the last digit decides.
    "deeplabv3": ("model=deeplabv3", *LIGHT_FOR_DILATED, "model.channels=32", "model.frozen_norm=[aspp.branches.4]"),
    "deeplabv3plus": (
        *("model=deeplabv3plus", *LIGHT_FOR_DILATED, "model.channels=32", "model.frozen_norm=[aspp.branches.4]"),
    ),
    "pspnet": ("model=pspnet", *LIGHT_FOR_DILATED, "model.channels=64", "model.frozen_norm=[pyramid.levels.0]"),
    "upernet": ("model=upernet", *LIGHT, "model.channels=32", "model.frozen_norm=[pyramid.levels.0]"),
}


@dataclass(frozen=True)
class Change:
    """What a mistake in the code could do: to the config, or to the model before its first step."""

    overrides: tuple[str, ...] = ()
    alter: Callable[[nn.Module], None] | None = None


def wider_weights(model: nn.Module) -> None:
    """Initial weights 2 % larger."""
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            layer.weight.data.mul_(1.02)


def drop_last_norm(model: nn.Module) -> None:
    name = [name for name, layer in model.named_modules() if isinstance(layer, nn.BatchNorm2d)][-1]
    model.set_submodule(name, nn.Identity())


def slower_statistics(model: nn.Module) -> None:
    """Running statistics that follow half as fast; only the evaluation shows it."""
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            assert layer.momentum is not None
            layer.momentum /= 2


CHANGES = {
    "momentum": Change(("optimizer.momentum=0.85",)),
    "schedule": Change(("schedule=constant",)),
    "power of the schedule": Change(("schedule.power=0.8",)),
    "label smoothing": Change(("loss.label_smoothing=0.01",)),
    "no flip": Change(("augment.train.flip.p=0",)),
    "initialisation": Change(alter=wider_weights),
    "a norm dropped": Change(alter=drop_last_norm),
    "running statistics": Change(alter=slower_statistics),
}

# Environments in which torch, oneDNN, OpenCV and NumPy take the kernels of other machines.
NO_AVX512 = "X86_V4 AVX512_ICL AVX512_SPR"
KERNELS = {
    "1 thread": {},
    "2 threads": {"OMP_NUM_THREADS": "2"},
    "torch: AVX2": {"ATEN_CPU_CAPABILITY": "avx2"},
    "torch: SSE": {"ATEN_CPU_CAPABILITY": "default"},
    "oneDNN: AVX2": {"ONEDNN_MAX_CPU_ISA": "AVX2"},
    "oneDNN: SSE4.1": {"ONEDNN_MAX_CPU_ISA": "SSE41"},
    "pixels: AVX2": {"OPENCV_CPU_DISABLE": "AVX512-SKX", "NPY_DISABLE_CPU_FEATURES": NO_AVX512},
    "pixels: SSE": {
        "OPENCV_CPU_DISABLE": "AVX512-SKX,AVX2,AVX,FP16",
        "NPY_DISABLE_CPU_FEATURES": f"X86_V3 {NO_AVX512}",
    },
}


@dataclass(frozen=True)
class Curve:
    """What 20 steps gave.

    Attributes:
        loss: of each step, on its two images.
        val_loss: after the last step, by the running statistics.
    """

    loss: list[float]
    val_loss: float

    def deviation(self, other: "Curve") -> float:
        """The largest relative difference of any loss."""
        pairs = zip([*self.loss, self.val_loss], [*other.loss, other.val_loss], strict=True)
        return max(abs(mine - others) / abs(others) for mine, others in pairs)


def overrides_of(family: str) -> list[str]:
    return [*COMMON, *FAMILIES[family]]


def train(family: str, change: Change | None = None) -> Curve:
    """Trains in this process, in a folder that does not stay."""
    change = change or Change()
    with tempfile.TemporaryDirectory() as folder, altered(change.alter):
        run, messages = Path(folder) / "run", io.StringIO()
        with contextlib.redirect_stdout(messages), contextlib.redirect_stderr(messages):
            code = segtrain(["train", *overrides_of(family), *change.overrides, f"run_dir={run}"])
        if code != 0:
            raise RuntimeError(f"{family}: segtrain train gave {code}: {messages.getvalue()}")
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    losses = {kind: [line["loss"] for line in lines if line["kind"] == kind] for kind in ("train", "val")}
    return Curve(losses["train"], losses["val"][-1])


@contextlib.contextmanager
def altered(alter: Callable[[nn.Module], None] | None) -> Iterator[None]:
    """Inside, every model is built with `alter` done to it."""
    build = Builder.model

    def build_and_alter(self: Builder, *arguments: Any, **named: Any) -> nn.Module:
        model = build(self, *arguments, **named)
        if alter is not None:
            alter(model)
        return model

    with mock.patch.object(Builder, "model", build_and_alter):
        yield


def made_with() -> dict[str, str]:
    """What a curve depends on beyond kernels. Without MKL, which other processors lack, dropout draws differently."""
    packages = {name: version.split("+")[0] for name, version in versions().items()}  # without torch's +cpu, +cu132
    return {"machine": platform.machine()} | {k: v for k, v in packages.items() if k not in ("segtrain", "python")}


def write(family: str) -> Path:
    curve = train(family)
    contents = {
        "made_with": made_with(),
        "overrides": overrides_of(family),
        "loss": [rounded(loss) for loss in curve.loss],
        "val_loss": rounded(curve.val_loss),
    }
    FOLDER.mkdir(exist_ok=True)
    path = FOLDER / f"{family}.json"
    path.write_text(json.dumps(contents, indent=2) + "\n", encoding="utf-8")
    return path


def read(family: str) -> tuple[dict[str, Any], Curve]:
    """What the file holds, and its curve."""
    contents = json.loads((FOLDER / f"{family}.json").read_text(encoding="utf-8"))
    return contents, Curve(contents["loss"], contents["val_loss"])


def rounded(loss: float) -> float:
    return float(f"{loss:.7g}")  # float32 has no more digits


def measure(families: list[str]) -> None:
    """Prints how far each family's losses move by other kernels, and by changes of the code, in units of TOLERANCE."""
    print(f"{'':20}" + "".join(f"{family:>14}" for family in families))
    first: dict[str, Curve] = {}
    for name, kernels in KERNELS.items():
        curves = elsewhere(families, kernels)
        first = first or curves
        print_row(name, {family: curves[family].deviation(first[family]) for family in families})
    print("changes of the code")
    for name, change in CHANGES.items():
        print_row(name, {family: train(family, change).deviation(first[family]) for family in families})


def elsewhere(families: list[str], kernels: dict[str, str]) -> dict[str, Curve]:
    """The curves of a process of its own."""
    single = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
    command = [sys.executable, __file__, "--print", "--family", *families]
    environment = {**os.environ, **single, **kernels}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"with {kernels}: {done.stderr}")
    return {family: Curve(**curve) for family, curve in json.loads(done.stdout).items()}


def print_row(name: str, deviations: dict[str, float]) -> None:
    print(f"{name:20}" + "".join(f"{deviation / TOLERANCE:>14.4f}" for deviation in deviations.values()), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", nargs="+", choices=FAMILIES, default=list(FAMILIES), help="default: all")
    parser.add_argument("--measure", action="store_true", help="write nothing; print what moves losses, and how far")
    parser.add_argument("--print", action="store_true", help="write nothing; print the losses")
    arguments = parser.parse_args()
    if arguments.measure:
        measure(arguments.family)
    elif arguments.print:
        print(json.dumps({family: vars(train(family)) for family in arguments.family}))
    else:
        for family in arguments.family:
            print(write(family))


if __name__ == "__main__":
    main()
