"""`segtrain train` with several processes, however they are started. All on the CPU."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from segtrain.engine import checkpoint
from tests.system.conftest import TINY

RunCli = Callable[..., tuple[int, str, str]]
TWO = (*TINY, "trainer.devices=2", "trainer.device=cpu", "data.batch_size=2")
LENGTH = ("trainer.max_steps=40", "trainer.evaluate_every=20")


def losses(run: Path) -> list[float]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if line["kind"] == "train"]


def saved(run: Path) -> dict[str, Any]:
    return checkpoint.load(run / "checkpoints" / "last.pt")


def assert_equal(one: Any, other: Any) -> None:
    """To the last bit."""
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_equal(one[key], other[key])
    elif isinstance(one, list | tuple):
        assert len(one) == len(other)
        for mine, theirs in zip(one, other, strict=True):
            assert_equal(mine, theirs)
    else:
        assert one == other


def assert_same_run(one: Path, other: Path) -> None:
    first, second = saved(one), saved(other)
    for part in ("model", "optimizer", "ema", "random", "state"):
        assert_equal(first[part], second[part])
    assert losses(one) == losses(other)


def start(*words: object, environment: dict[str, str] | None = None) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", **(environment or {})},
    )


def train(run: Path, *words: str) -> "subprocess.Popen[str]":
    return start("-m", "segtrain", "train", *TWO, *LENGTH, f"run_dir={run}", *words)


def wait_for_steps(run: Path, process: "subprocess.Popen[str]", steps: int) -> None:
    metrics = run / "metrics.jsonl"
    deadline = time.monotonic() + 200
    while not (metrics.is_file() and len(metrics.read_text().splitlines()) >= steps):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def ranks_of(launcher: int) -> list[int]:
    """Process ids of the ranks, in the order in which they were started."""
    children = [
        int(child)
        for task in Path(f"/proc/{launcher}/task").iterdir()
        for child in (task / "children").read_text().split()
    ]
    return sorted(child for child in children if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes())


def vanish(pids: list[int]) -> bool:
    deadline = time.monotonic() + 30
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


@pytest.fixture(scope="module")
def short_run(run_cli: RunCli, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A finished run of two processes, and what the terminal said."""
    run = tmp_path_factory.mktemp("two") / "run"
    process = start("-m", "segtrain", "train", *TWO, f"run_dir={run}")
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return run, err


def test_two_processes_leave_one_run(short_run: tuple[Path, str]) -> None:
    run, err = short_run
    assert "on 2 processes (cpu, ddp) in fp32" in err
    assert err.count("train step 1/6") == 1
    assert len(losses(run)) == 6
    assert json.loads((run / "environment.json").read_text())["processes"] == 2
    assert json.loads((run / "results.json").read_text())["images"] == 5
    assert len(saved(run)["random"]) == 2
    assert [path.name for path in (run / "pictures").iterdir() if "0006" in path.name]


def test_their_evaluation_is_that_of_the_command_in_one_process(
    short_run: tuple[Path, str], run_cli: RunCli, tmp_path: Path
) -> None:
    run, _ = short_run
    code, _, err = run_cli("evaluate", f"checkpoint={run / 'checkpoints' / 'last.pt'}", f"output={tmp_path}")
    assert code == 0, err
    one, two = (json.loads((folder / "results.json").read_text()) for folder in (tmp_path, run))
    assert one["confusion"] == two["confusion"]
    assert one["loss"] == pytest.approx(two["loss"], rel=1e-5)


def test_what_is_wrong_is_said_once_before_any_process_starts(run_cli: RunCli, tmp_path: Path) -> None:
    code, _, err = run_cli("train", *TWO, f"run_dir={tmp_path / 'run'}", "trainer.clip_norm=-1")
    assert (code, err.count("\n")) == (2, 1)
    assert "trainer.clip_norm=-1" in err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["trainer.devices=0"], "trainer.devices=0 must be at least 1, or auto"),
        (["trainer.devices=some"], "trainer.devices"),
        (["trainer.timeout=0"], "trainer.timeout=0 must be positive"),
        (["trainer.device=cuda:1"], "trainer.device=cuda:1 is one GPU and trainer.devices=2 are several"),
        (["trainer.parallel=dp"], "trainer.parallel"),
        (["trainer.parallel=fsdp", "trainer.precision=fp16"], "fsdp knows no loss scaling"),
        (["trainer.parallel=fsdp", "trainer.freeze={backbone: 3}"], "fsdp knows no parts that learn later"),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)
def test_impossible_wishes_are_named(run_cli: RunCli, tmp_path: Path, words: list[str], message: str) -> None:
    code, _, err = run_cli("train", *TWO, f"run_dir={tmp_path / 'run'}", *words)
    assert code == 2
    assert message in err


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run."""
    run = tmp_path_factory.mktemp("whole") / "run"
    process = train(run)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return run


@pytest.mark.slow
@pytest.mark.parametrize(
    ("to_rank", "number", "code", "words"),
    [
        (None, signal.SIGTERM, 143, ()),
        (None, signal.SIGINT, 130, ("data.workers=1", "checkpoint.async=true")),
        (0, signal.SIGUSR1, 143, ()),
        (1, signal.SIGTERM, 143, ("data.workers=1",)),
    ],
    ids=["TERM", "INT", "USR1 to rank 0", "TERM to rank 1"],
)
def test_a_signal_to_any_process_stops_all_and_the_rest_is_the_same(
    to_rank: int | None, number: int, code: int, words: tuple[str, ...], tmp_path: Path, whole: Path
) -> None:
    run = tmp_path / "run"
    process = train(run, *words)
    wait_for_steps(run, process, 3)
    ranks = ranks_of(process.pid)
    assert len(ranks) == 2
    os.kill(process.pid if to_rank is None else ranks[to_rank], number)
    _, err = process.communicate(timeout=120)
    assert process.returncode == code, err
    assert f"segtrain train resume={run}" in err
    assert "Traceback" not in err
    assert "Warning" not in err
    assert vanish(ranks)
    assert 0 < saved(run)["state"]["step"] < 40
    process = start("-m", "segtrain", "train", f"resume={run}", "data.workers=0", "checkpoint.async=false")
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert "not to the same bits" not in err
    assert_same_run(run, whole)


@pytest.mark.slow
def test_a_second_signal_ends_at_once(tmp_path: Path) -> None:
    process = train(tmp_path / "run", "trainer.max_steps=100000", "data.workers=1")
    wait_for_steps(tmp_path / "run", process, 3)
    ranks = ranks_of(process.pid)
    for pid in ranks:
        os.kill(pid, signal.SIGSTOP)  # so that they cannot answer the first
    os.kill(process.pid, signal.SIGINT)
    time.sleep(0.5)
    os.kill(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert vanish(ranks)


@pytest.mark.slow
def test_a_killed_rank_ends_all_and_the_run_goes_on_from_its_checkpoint(tmp_path: Path, whole: Path) -> None:
    run = tmp_path / "run"
    process = train(run, "trainer.save_every=2")
    wait_for_steps(run, process, 7)
    ranks = ranks_of(process.pid)
    os.kill(ranks[1], signal.SIGKILL)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 3, err
    assert "segtrain: error: rank 1 was ended by SIGKILL" in err
    assert err.count("error") == 1
    assert vanish(ranks)
    process = start("-m", "segtrain", "train", f"resume={run}", "trainer.save_every=null")
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert_same_run(run, whole)


@pytest.mark.slow
def test_ranks_do_not_outlive_a_killed_launcher(tmp_path: Path) -> None:
    process = train(tmp_path / "run", "trainer.max_steps=100000")
    wait_for_steps(tmp_path / "run", process, 3)
    ranks = ranks_of(process.pid)
    process.kill()
    assert vanish(ranks)
    process.communicate()


@pytest.mark.slow
def test_a_rank_that_hangs_is_ended_after_the_timeout(tmp_path: Path) -> None:
    process = train(tmp_path / "run", "trainer.max_steps=100000", "trainer.timeout=10")
    wait_for_steps(tmp_path / "run", process, 3)
    ranks = ranks_of(process.pid)
    os.kill(ranks[1], signal.SIGSTOP)
    _, err = process.communicate(timeout=90)
    assert process.returncode == 3, err
    assert "rank 1 gave no answer and was ended" in err
    assert "trainer.timeout=10 s" in err
    assert vanish(ranks)


@pytest.mark.slow
def test_torchrun_is_recognised(tmp_path: Path, whole: Path) -> None:
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m")
    process = start(*launcher, "segtrain", "train", *TWO, *LENGTH, f"run_dir={tmp_path / 'run'}", "trainer.devices=5")
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert "trainer.devices=5 is left aside: torchrun started 2 processes" in err
    assert err.count("train step 1/40") == 1
    assert_same_run(tmp_path / "run", whole)


@pytest.mark.slow
def test_under_torchrun_a_mistake_is_one_line_and_nobody_waits(tmp_path: Path) -> None:
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m")
    process = start(*launcher, "segtrain", "train", *TWO, f"run_dir={tmp_path / 'run'}", "optimizer.lrr=1")
    _, err = process.communicate(timeout=120)
    assert process.returncode == 1  # torchrun's own
    assert err.count("segtrain: error:") == 1


@pytest.fixture
def slurm() -> Iterator[Callable[..., list["subprocess.Popen[str]"]]]:
    """`slurm(*words)` starts two processes as `srun --ntasks=2` does."""
    started: list[subprocess.Popen[str]] = []

    def srun(*words: str) -> list["subprocess.Popen[str]"]:
        both = {"SLURM_NTASKS": "2", "SLURM_STEP_ID": "0", "SLURM_JOB_ID": str(os.getpid())}
        both["SLURM_STEP_NODELIST"] = "localhost"
        for rank in range(2):
            own = {"SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)}
            started.append(start("-m", "segtrain", "train", *words, environment={**both, **own}))
        return started

    yield srun
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.slow
def test_slurm_is_recognised(tmp_path: Path, whole: Path, slurm: Callable[..., list["subprocess.Popen[str]"]]) -> None:
    processes = slurm(*TWO, *LENGTH, f"run_dir={tmp_path / 'run'}")
    said = [process.communicate(timeout=300)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    assert "train step 1/40" in said[0]
    assert said[1] == ""
    assert_same_run(tmp_path / "run", whole)


@pytest.mark.slow
def test_under_slurm_a_signal_to_one_task_stops_both(
    tmp_path: Path, slurm: Callable[..., list["subprocess.Popen[str]"]]
) -> None:
    processes = slurm(*TWO, f"run_dir={tmp_path / 'run'}", "trainer.max_steps=100000")
    wait_for_steps(tmp_path / "run", processes[0], 3)
    os.kill(processes[1].pid, signal.SIGUSR1)
    said = [process.communicate(timeout=60)[1] for process in processes]
    assert [process.returncode for process in processes] == [143, 143], said
    assert saved(tmp_path / "run")["state"]["step"] >= 3


@pytest.mark.slow
def test_under_slurm_a_mistake_ends_both(tmp_path: Path, slurm: Callable[..., list["subprocess.Popen[str]"]]) -> None:
    processes = slurm(*TWO, f"run_dir={tmp_path / 'run'}", "optimizer.lrr=1")
    said = [process.communicate(timeout=90)[1] for process in processes]
    assert [process.returncode for process in processes] == [2, 2], said
    assert "optimizer.lrr" in said[0]
    assert said[1] == ""


@pytest.mark.slow
def test_a_sweep_starts_the_processes_of_each_run(tmp_path: Path) -> None:
    words = (*TWO, "trainer.max_steps=1", "seed=0,1", f"output_root={tmp_path}")
    process = start("-m", "segtrain", "train", "-m", *words)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    runs = [path.parents[1] for path in tmp_path.rglob("last.pt")]
    assert len(runs) == 2
    assert losses(runs[0]) != losses(runs[1])


@pytest.mark.slow
def test_shared_out_parameters_train_to_the_same_weights_and_go_on(tmp_path: Path, whole: Path) -> None:
    process = train(tmp_path / "run", "trainer.parallel=fsdp")
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert losses(tmp_path / "run")[:3] == pytest.approx(losses(whole)[:3], rel=1e-4)
    process = start(
        "-m", "segtrain", "train", f"resume={tmp_path / 'run'}", "trainer.max_steps=41", "trainer.devices=1"
    )
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert "not to the same bits as without the interruption: processes 2 -> 1" in err


@pytest.mark.slow
def test_a_dry_run_measures_what_each_process_does(tmp_path: Path) -> None:
    process = train(tmp_path / "run", "trainer.dry_run=true", "trainer.parallel=fsdp")
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert out.count("peak memory") == 1
    assert re.search(r"^images +2 x 3 x 64 x 64$", out, re.MULTILINE)
    assert not (tmp_path / "run").exists()
