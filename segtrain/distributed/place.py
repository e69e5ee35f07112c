"""Which of a run's processes this one is, where something else than segtrain started it: torchrun, or Slurm's srun."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from segtrain.errors import ConfigError

FIRST_SPECIAL_STEP = 4294967290  # from here on a step is Slurm's own, such as the shell that salloc opens
PORTS = range(10000, 30000)  # below those that systems hand out themselves


@dataclass(frozen=True)
class Place:
    """One process among those that were started together, and where they meet.

    Attributes:
        rank: 0 to size - 1, over all machines.
        size: number of processes.
        local_rank: 0 to local_size - 1, on this machine.
        local_size: number of processes on this machine; None where nothing says it.
        address: name of the machine of rank 0.
        port: at which rank 0 listens there.
        started_by: who started them, for messages.
    """

    rank: int
    size: int
    local_rank: int
    local_size: int | None
    address: str
    port: int
    started_by: str


def place_in(environment: Mapping[str, str]) -> Place | None:
    """The place that environment variables tell of, None where this process was started by itself.

    Raises:
        ConfigError: they say a place, but not a possible one.
    """
    if all(environment.get(name) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")):
        return _checked(_of_torchrun(environment))
    if _inside_srun(environment):
        return _checked(_of_slurm(environment))
    return None


def _of_torchrun(environment: Mapping[str, str]) -> Place:
    number = _Numbers(environment)
    return Place(
        rank=number["RANK"],
        size=number["WORLD_SIZE"],
        local_rank=number["LOCAL_RANK"],
        local_size=number.get("LOCAL_WORLD_SIZE"),
        address=environment["MASTER_ADDR"],
        port=number["MASTER_PORT"],
        started_by="torchrun",
    )


def _inside_srun(environment: Mapping[str, str]) -> bool:
    """A batch script, or a shell inside an allocation, sees the allocation's variables too but is one process."""
    number = _Numbers(environment)
    if not all(environment.get(name) for name in ("SLURM_STEP_ID", "SLURM_PROCID", "SLURM_LOCALID")):
        return False
    return number["SLURM_STEP_ID"] < FIRST_SPECIAL_STEP and _slurm_tasks(number) > 1


def _slurm_tasks(number: "_Numbers") -> int:
    return number.get("SLURM_STEP_NUM_TASKS") or number.get("SLURM_NTASKS") or 1


def _of_slurm(environment: Mapping[str, str]) -> Place:
    number = _Numbers(environment)
    nodes = environment.get("SLURM_STEP_NODELIST") or environment.get("SLURM_JOB_NODELIST") or "localhost"
    # Two steps of one job, and two jobs on one machine, must not meet each other.
    job, step = number.get("SLURM_JOB_ID") or 0, number["SLURM_STEP_ID"]
    return Place(
        rank=number["SLURM_PROCID"],
        size=_slurm_tasks(number),
        local_rank=number["SLURM_LOCALID"],
        local_size=None,
        address=environment.get("MASTER_ADDR") or first_host(nodes),
        port=number.get("MASTER_PORT") or PORTS[(job * 31 + step) % len(PORTS)],
        started_by="Slurm",
    )


def first_host(nodes: str) -> str:
    """The first machine of Slurm's list: `rack[2-3]node[07,11-12],gpu5` -> `rack2node07`."""
    first = re.match(r"(?:[^\[,]|\[[^\]]*\])*", nodes)
    assert first is not None
    return re.sub(r"\[([^\],-]*)[^\]]*\]", r"\1", first.group())


def _checked(place: Place) -> Place:
    if not 0 <= place.rank < place.size:
        raise ConfigError(f"{place.started_by}: rank {place.rank} of {place.size} processes is impossible")
    if not 0 < place.port < 2**16:
        raise ConfigError(f"MASTER_PORT={place.port} is no port; give 1 to 65535")
    return place


class _Numbers:
    """Environment variables that hold whole numbers."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment

    def __getitem__(self, name: str) -> int:
        text = self._environment[name]
        if not text.isdecimal():
            raise ConfigError(f"environment variable {name}={text!r}: a whole number is expected")
        return int(text)

    def get(self, name: str) -> int | None:
        """None where it is not set or empty."""
        return self[name] if self._environment.get(name) else None
