"""`segtrain replay`: what a training kept of a step that went wrong goes wrong again, and says where."""

import math
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from segtrain.commands.replay import find_evidence
from segtrain.engine import checkpoint
from tests.system.conftest import TINY

RunCli = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def exploded(run_cli: RunCli, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose second step had a loss that is no number, with auxiliary heads and class weights from the data."""
    run = tmp_path_factory.mktemp("exploded") / "run"
    rate = ("optimizer=sgd", "optimizer.lr=1e25", "model/aux=fcn", "loss.class_weights=enet")
    code, _, err = run_cli("train", *TINY, *rate, f"run_dir={run}")
    assert code == 4
    assert f"segtrain replay {run}" in err
    return run


def test_the_fault_is_reproduced_and_traced_to_its_module(exploded: Path, run_cli: RunCli) -> None:
    kept = checkpoint.load(exploded / "nonfinite" / "step_0000002.pt")
    code, out, err = run_cli("replay", exploded)
    assert (code, err) == (0, "")
    assert f"found in training: {kept['found']}\n" in out
    assert f"samples: {', '.join(kept['batches'][0]['names'])}\n" in out
    assert "\n  images  4 x 3 x 64 x 64, " in out
    for name in ("loss", "cross_entropy", "aux_stage4"):
        assert f"\n  {name} " in out
    assert "first activation " in out
    assert "(Conv2d)" in out
    assert "Backward0' returned nan values" in out
    assert "\nlargest weights\n  " in out
    assert out.endswith("\nreproduced: the loss or a gradient is no number, as in the training\n")


def test_a_fault_that_is_gone_is_not_reproduced_and_overrides_apply(exploded: Path, run_cli: RunCli) -> None:
    mended = exploded.parent / "mended.pt"
    contents = checkpoint.load(exploded / "nonfinite" / "step_0000002.pt")
    del contents["schema"]
    for name, x in contents["model"].items():
        if name.endswith(("weight", "bias")):
            x.clamp_(-1.0, 1.0)
    checkpoint.save(contents, mended)
    losses = []
    for precision in ("fp32", "bf16"):
        code, out, err = run_cli("replay", mended, f"trainer.precision={precision}")
        assert code == 0, err
        assert "\nnot reproduced: loss " in out
        assert "all finite" in out
        losses.append(float(next(line.split()[1] for line in out.splitlines() if line.startswith("  loss "))))
    assert math.isfinite(losses[0])
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], rel=0.05)


def test_one_of_several_steps_is_chosen_by_number(exploded: Path, run_cli: RunCli, tmp_path: Path) -> None:
    shutil.copytree(exploded / "nonfinite", tmp_path / "run" / "nonfinite")
    shutil.copy(exploded / "nonfinite/step_0000002.pt", tmp_path / "run/nonfinite/step_0000011.pt")
    assert run_cli("replay", tmp_path / "run")[1].startswith(f"{tmp_path}/run/nonfinite/step_0000011.pt\n")
    assert run_cli("replay", tmp_path / "run", "step=2")[1].startswith(f"{tmp_path}/run/nonfinite/step_0000002.pt\n")
    code, _, err = run_cli("replay", tmp_path / "run", "step=5")
    assert code == 2
    assert "nothing to replay of step 5 (there are: 2, 11)" in err


def test_of_several_processes_files_that_of_rank_0_is_taken(exploded: Path, tmp_path: Path) -> None:
    (tmp_path / "nonfinite").mkdir()
    for name in ("step_0000002_rank1.pt", "step_0000002_rank0.pt", "step_0000001_rank0.pt"):
        shutil.copy(exploded / "nonfinite" / "step_0000002.pt", tmp_path / "nonfinite" / name)
    assert find_evidence(tmp_path, None).name == "step_0000002_rank0.pt"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("", "name one run: segtrain replay RUN_DIR"),
        ("RUN RUN", "name one run: segtrain replay RUN_DIR, not "),
        ("GOOD", "nothing to replay; it is written where a loss is no number"),
        ("GOOD/checkpoints/last.pt", "holds no batches of a step that went wrong"),
        ("nowhere", "nowhere: no such checkpoint file"),
        ("RUN model.decoder_channels=[4,4,4,4,4]", "holds the weights of another model"),
        ("RUN trainer.precison=fp32", "did you mean 'trainer.precision'?"),
        ("RUN step=x", "step='x' is not a"),
    ],
)
def test_a_mistake_is_one_line(
    exploded: Path, finished_run: Path, run_cli: RunCli, tmp_path: Path, words: str, message: str
) -> None:
    replaced = words.replace("RUN", str(exploded)).replace("GOOD", str(finished_run))
    code, _, err = run_cli("replay", *replaced.split(), cwd=tmp_path)
    assert code == 2
    assert err.startswith("segtrain: error: ")
    assert err.count("\n") == 1
    assert message in err
