"""What the environment says of a process that torchrun or Slurm started."""

import pytest

from segtrain.distributed.place import Place, first_host, place_in
from segtrain.errors import ConfigError

TORCHRUN = {
    "RANK": "5",
    "WORLD_SIZE": "8",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "4",
    "MASTER_ADDR": "node1",
    "MASTER_PORT": "29500",
}
SLURM = {
    "SLURM_PROCID": "3",
    "SLURM_NTASKS": "4",
    "SLURM_LOCALID": "1",
    "SLURM_STEP_ID": "0",
    "SLURM_JOB_ID": "4711",
    "SLURM_STEP_NODELIST": "node[07-08]",
}


def test_torchrun_says_all() -> None:
    assert place_in(TORCHRUN) == Place(5, 8, 1, 4, "node1", 29500, "torchrun")


def test_slurm_says_all_but_the_meeting_point_which_follows_from_nodes_and_job() -> None:
    place = place_in(SLURM)
    assert place == Place(3, 4, 1, None, "node07", 10000 + 4711 * 31 % 20000, "Slurm")
    assert place_in({**SLURM, "MASTER_ADDR": "head", "MASTER_PORT": "1234"}) == Place(
        3, 4, 1, None, "head", 1234, "Slurm"
    )


def test_torchrun_inside_a_slurm_job_counts() -> None:
    place = place_in({**SLURM, **TORCHRUN})
    assert place is not None
    assert place.started_by == "torchrun"


def test_the_steps_own_number_of_tasks_counts_not_the_allocations() -> None:
    place = place_in({**SLURM, "SLURM_NTASKS": "64", "SLURM_STEP_NUM_TASKS": "4"})
    assert place is not None
    assert place.size == 4


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"WORLD_SIZE": "8", "MASTER_ADDR": "node1"},
        {**TORCHRUN, "RANK": ""},
        {name: value for name, value in SLURM.items() if name != "SLURM_STEP_ID"},
        {**SLURM, "SLURM_NTASKS": "1"},
        {**SLURM, "SLURM_STEP_ID": "4294967290"},
    ],
    ids=["nothing", "half of torchrun", "empty", "batch script", "one task", "shell of salloc"],
)
def test_a_process_on_its_own_has_no_place(environment: dict[str, str]) -> None:
    assert place_in(environment) is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"RANK": "8"}, "rank 8 of 8 processes is impossible"),
        ({"WORLD_SIZE": "many"}, "WORLD_SIZE='many': a whole number is expected"),
        ({"MASTER_PORT": "70000"}, "MASTER_PORT=70000 is no port"),
    ],
)
def test_an_impossible_place_is_named(changes: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        place_in({**TORCHRUN, **changes})


@pytest.mark.parametrize(
    ("nodes", "host"),
    [
        ("node1", "node1"),
        ("node1,node2", "node1"),
        ("node[07-12]", "node07"),
        ("node[3,5-7],gpu1", "node3"),
        ("rack[2-3]node[07,11-12],gpu5", "rack2node07"),
        ("gpu-a[01-02].local", "gpu-a01.local"),
    ],
)
def test_the_first_host_of_slurms_list(nodes: str, host: str) -> None:
    assert first_host(nodes) == host
