"""What takes minutes: the demo's promise, a real data set, and the wheel in an environment of its own."""

import json
import subprocess
import sys
import venv
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.contracts.test_models import build_model

RunCli = Callable[..., tuple[int, str, str]]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


def test_the_demo_reaches_what_the_readme_says(run_cli: RunCli, tmp_path: Path) -> None:
    code, _, err = run_cli("train", "experiment=demo", f"run_dir={tmp_path / 'demo'}")
    assert code == 0, err
    assert json.loads((tmp_path / "demo" / "results.json").read_text())["miou"] >= 0.80
    assert f"pictures of predictions: {tmp_path / 'demo' / 'pictures'}" in err
    assert "pixel accuracy" in err


def test_camvid_is_learnt_and_evaluate_gives_the_same_number(
    run_cli: RunCli, shared_data: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    code, _, err = run_cli(
        *("train", "experiment=camvid_unet_r18_cpu", f"data.root={shared_data / 'camvid'}", f"run_dir={run}"),
        *("trainer.max_steps=200", "trainer.evaluate_every=null"),
    )
    assert code == 0, err
    during = json.loads((run / "results.json").read_text())
    assert during["images"] == 101
    assert during["miou"] > 0.25
    code, _, err = run_cli("evaluate", f"checkpoint={run}/checkpoints/last.pt", f"output={tmp_path / 'again'}")
    assert code == 0, err
    assert json.loads((tmp_path / "again" / "results.json").read_text())["confusion"] == during["confusion"]


def test_the_wheel_alone_trains_evaluates_and_predicts(project_root: Path, tmp_path: Path) -> None:
    def run(*command: object, cwd: Path = project_root) -> str:
        done = subprocess.run([str(word) for word in command], cwd=cwd, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    run(sys.executable, "-m", "build", "--wheel", "--outdir", tmp_path / "wheel", project_root)
    (wheel,) = (tmp_path / "wheel").glob("*.whl")
    venv.create(tmp_path / "venv", with_pip=True)
    binaries = tmp_path / "venv" / "bin"
    constraints = project_root / "constraints.txt"
    run(binaries / "python", "-m", "pip", "install", "--quiet", "--constraint", constraints, wheel)
    elsewhere = tmp_path / "empty"
    elsewhere.mkdir()
    segtrain = binaries / "segtrain"
    tiny = ("data.num_train=16", "data.num_val=4", "data.batch_size=4", "augment=light", "model=unet_light")
    run(segtrain, "train", *tiny, "trainer.max_steps=4", "run_dir=run", cwd=elsewhere)
    assert "mean" in run(segtrain, "evaluate", "checkpoint=run/checkpoints/best.pt", cwd=elsewhere)
    run(segtrain, "predict", "checkpoint=run/checkpoints/best.pt", "input=run/pictures", "output=out", cwd=elsewhere)
    assert sorted(path.name for path in elsewhere.iterdir()) == ["out", "run"]
    drawn, given = (
        {path.name for path in (elsewhere / folder).iterdir()} for folder in ("out/overlay", "run/pictures")
    )
    assert drawn == given


LIGHT = (
    *("data=shapes", "data.size=[64,64]", "augment.crop_size=[64,64]", "data.num_train=80", "data.num_val=4"),
    *("data.batch_size=4", "data.workers=0", "trainer.log_every=1", "trainer.pictures=0"),
)
# Each of the lineage over a backbone that keeps the test short; all over their own: scripts/train_lineage.py.
LINEAGE = {
    **dict.fromkeys(("fcn32s", "fcn16s", "fcn8s", "fcn", "deeplabv1", "deeplabv2"), "resnet18"),
    **dict.fromkeys(("deeplabv3", "deeplabv3plus", "pspnet", "upernet", "unet"), "resnet18"),
    "fcdensenet56": "fcdensenet56",
    "unet_light": "googlenet",
}


@pytest.mark.parametrize(("model", "backbone"), LINEAGE.items())
def test_twenty_steps_lower_the_loss(model: str, backbone: str, run_cli: RunCli, tmp_path: Path) -> None:
    code, _, err = run_cli(
        *("train", f"model={model}", f"model/backbone={backbone}", *LIGHT, f"run_dir={tmp_path / 'run'}"),
        *("trainer.max_steps=20", "optimizer.lr=3e-4"),
    )
    assert code == 0, err
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if line["kind"] == "train"]
    assert len(losses) == 20
    assert sum(losses[-5:]) < sum(losses[:5])


def test_a_multirun_goes_over_models_and_backbones(run_cli: RunCli, tmp_path: Path) -> None:
    models, backbones = "fcn8s,unet,deeplabv3plus", "resnet18,googlenet,densenet121,seresnet18,efficientnet_b0"
    code, _, err = run_cli(
        *("train", "-m", f"model={models}", f"model/backbone={backbones}", *LIGHT, "trainer.max_steps=1"), cwd=tmp_path
    )
    assert code == 0, err
    assert len(list(tmp_path.glob("outputs/shapes/*/*/checkpoints/last.pt"))) == 15


@pytest.mark.parametrize(
    ("model", "backbone"), [("unet", "resnet18"), ("deeplabv3plus", "mobilenet_v2"), ("fcn8s", "vgg11")]
)
def test_inductor_compiles_what_it_computes(model: str, backbone: str) -> None:
    torch.manual_seed(0)
    net, images = build_model(model, f"model/backbone={backbone}", device="cpu").eval(), torch.randn(1, 3, 33, 47)
    with torch.no_grad():
        torch.testing.assert_close(torch.compile(net)(images).logits, net(images).logits, atol=1e-4, rtol=1e-4)
