"""Going on with a run: the same command again, damaged checkpoints, files of an older segtrain."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from segtrain.engine import checkpoint
from tests.system.conftest import TINY

RunCli = Callable[..., tuple[int, str, str]]
Train = Callable[..., Path]


def final(run: Path) -> dict:
    return checkpoint.load(run / "checkpoints" / "last.pt")


def assert_equal_weights(one: Path, other: Path) -> None:
    first, second = final(one)["model"], final(other)["model"]
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def keep_only(run: Path, name: str) -> None:
    for path in (run / "checkpoints").iterdir():
        if path.name != name:
            path.unlink()


def test_the_same_command_with_auto_begins_a_run_and_then_goes_on_with_it(
    train: Train, finished_run: Path, run_cli: RunCli, tmp_path: Path
) -> None:
    command = ("train", *TINY, f"run_dir={tmp_path / 'run'}", "resume=auto")
    code, _, err = run_cli(*command)
    assert code == 0, err
    keep_only(tmp_path / "run", "step_0000003.pt")
    code, _, err = run_cli(*command)
    assert code == 0, err
    assert_equal_weights(tmp_path / "run", finished_run)
    assert len(json.loads((tmp_path / "run" / "environment.json").read_text())["resumed"]) == 1


def test_auto_begins_anew_where_a_run_ended_before_its_first_checkpoint(
    finished_run: Path, run_cli: RunCli, tmp_path: Path
) -> None:
    command = ("train", *TINY, f"run_dir={tmp_path / 'run'}", "resume=auto")
    run_cli(*command)
    keep_only(tmp_path / "run", "none")
    code, _, err = run_cli(*command)
    assert code == 0, err
    steps = [json.loads(line)["step"] for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 3, 3, 4, 5, 6, 6]
    assert_equal_weights(tmp_path / "run", finished_run)


@pytest.mark.parametrize(
    ("make", "words", "said"),
    [
        (lambda run: None, ["resume=auto"], "resume=auto: it goes on with the run in run_dir where there is one"),
        (lambda run: (run / "photos").mkdir(parents=True), ["resume=auto", "run_dir=RUN"], "exists and is not empty"),
    ],
)
def test_auto_touches_no_folder_that_is_no_run(run_cli: RunCli, tmp_path: Path, make, words, said) -> None:
    make(tmp_path / "run")
    code, _, err = run_cli("train", *TINY, *[word.replace("RUN", str(tmp_path / "run")) for word in words])
    assert code == 2
    assert said in err


def test_a_damaged_newest_checkpoint_costs_the_steps_since_the_one_before(
    train: Train, finished_run: Path, run_cli: RunCli
) -> None:
    run = train()
    last = run / "checkpoints" / "last.pt"
    last.write_bytes(last.read_bytes()[:-100])
    code, _, err = run_cli("train", f"resume={run}")
    assert code == 0, err
    assert "going on from step_0000003.pt, of step 3" in err
    assert_equal_weights(run, finished_run)


def test_a_folder_in_which_another_process_trains_is_left_alone(train: Train, tmp_path: Path) -> None:
    import subprocess
    import sys

    run = train()
    hold = (
        "import sys; from pathlib import Path; from segtrain.engine.run_directory import RunDirectory\n"
        "with RunDirectory(Path(sys.argv[1])).locked(): print('held', flush=True); sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", hold, str(run)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        before = final(run)["state"]
        from segtrain.cli import main

        assert main(["train", f"resume={run}", "trainer.max_steps=8"]) == 2
        assert final(run)["state"] == before
        assert holder.stdin is not None
        holder.stdin.close()
    assert main(["train", f"resume={run}", "trainer.max_steps=8"]) == 0


def as_written_before_averages(run: Path) -> None:
    """The run as the first schema had it: without the keys and parts that came later."""
    config = OmegaConf.load(run / "config.yaml")
    later = {"patience", "min_gain", "ema_decay", "ema_warmup", "ema_evaluate_raw", "freeze", "overfit_batches"}
    later |= {"compile", "max_skipped_steps"}
    for key in later:
        del config.trainer[key]
    for key in ("task", "threshold", "on_error", "max_skipped"):
        del config.data[key]
    del config["checkpoint"]
    OmegaConf.save(config, run / "config.yaml")
    for path in (run / "checkpoints").iterdir():
        contents = checkpoint.load(path)
        for part in ("ema", "window", "kept", "versions"):
            del contents[part]
        contents["config"] = OmegaConf.to_container(config, resolve=False)
        contents["random"] = contents["random"][0]
        contents["facts"].pop("threshold", None)
        contents["state"] = {k: contents["state"][k] for k in ("step", "evaluated_step", "best_value", "best_step")}
        schema, checkpoint.SCHEMA = checkpoint.SCHEMA, 1
        checkpoint.save({name: value for name, value in contents.items() if name != "schema"}, path)
        checkpoint.SCHEMA = schema


def test_a_run_of_an_older_segtrain_is_evaluated_and_gone_on_with(
    train: Train, run_cli: RunCli, tmp_path: Path
) -> None:
    run = train()
    as_written_before_averages(run)
    code, _, err = run_cli("evaluate", f"checkpoint={run / 'checkpoints' / 'best.pt'}", f"output={tmp_path}")
    assert code == 0, err
    keep_only(run, "step_0000003.pt")
    code, _, err = run_cli("train", f"resume={run}")
    assert code == 0, err
    assert final(run)["state"]["step"] == 6


def test_evaluate_takes_the_averaged_weights_unless_told_otherwise(
    train: Train, run_cli: RunCli, tmp_path: Path
) -> None:
    run = train("trainer.ema_decay=0.5", "trainer.evaluate_every=6")
    logged = {
        record["kind"]: record["loss"] for record in map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    }
    assert logged["val"] != logged["val_raw"]
    for weights, kind in (("average", "val"), ("raw", "val_raw")):
        last = run / "checkpoints" / "last.pt"
        code, _, err = run_cli("evaluate", f"checkpoint={last}", f"output={tmp_path}", f"weights={weights}")
        assert code == 0, err
        assert json.loads((tmp_path / "results.json").read_text())["loss"]["loss"] == logged[kind]


def test_overfitting_a_batch_brings_its_loss_down(train: Train) -> None:
    run = train("trainer.overfit_batches=1", "trainer.max_steps=30", "trainer.evaluate_every=null", "optimizer.lr=3e-3")
    losses = [json.loads(line).get("loss") for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert min(losses[20:30]) < 0.8 * losses[0]


def test_the_first_line_after_a_resume_covers_as_many_steps_as_any(train: Train, run_cli: RunCli) -> None:
    whole = train("trainer.log_every=4", "trainer.max_steps=8", "trainer.evaluate_every=null")
    part = train("trainer.log_every=4", "trainer.max_steps=8", "trainer.evaluate_every=null", "trainer.save_every=2")
    keep_only(part, "step_0000006.pt")
    code, _, err = run_cli("train", f"resume={part}")
    assert code == 0, err
    logged = [
        [record["loss"] for record in map(json.loads, (run / "metrics.jsonl").read_text().splitlines())]
        for run in (whole, part)
    ]
    assert logged[0] == logged[1]
