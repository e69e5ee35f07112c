"""What the processes of one run say to each other."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from segtrain.distributed.world import LostRankError, SharedFailureError, World, join
from segtrain.errors import ConfigError, DataError
from tests.distributed.conftest import CPU, in_two_processes


def everything(world: World) -> dict[str, Any]:
    mine = torch.tensor([2**40 + world.rank, -world.rank])
    result = {
        "main": world.is_main,
        "sum": world.sum(mine).tolist(),
        "mine": mine.tolist(),
        "max": world.max(torch.tensor([1.5, -1.0]) * (world.rank + 1)).tolist(),
        "largest": world.largest(7 * world.rank),
        "any": [world.any(False), world.any(world.rank == 1), world.any(True)],
        "gather": world.gather({"rank": world.rank}),
        "broadcast": world.broadcast(("from", world.rank)),
        "strided": world.sum(torch.arange(6.0).view(2, 3).t()).tolist(),
    }
    world.share_failure(None, "read")
    world.barrier()
    return result


def test_every_method_agrees_in_all_processes(tmp_path: Path) -> None:
    main, other = in_two_processes(everything, tmp_path)
    assert (main.pop("main"), other.pop("main")) == (True, False)
    assert (main.pop("mine"), other.pop("mine")) == ([2**40, 0], [2**40 + 1, -1])
    assert main.pop("gather") == [{"rank": 0}, {"rank": 1}]
    assert other.pop("gather") == []
    assert main == other
    assert main == {
        "sum": [2**41 + 1, -1],
        "max": [3.0, -1.0],
        "largest": 7,
        "any": [False, True, True],
        "broadcast": ("from", 0),
        "strided": [[0.0, 6.0], [2.0, 8.0], [4.0, 10.0]],
    }


def failing(world: World) -> None:
    if world.rank == 1:
        raise ConfigError("model.x=1: no")
    world.barrier()


def test_a_process_that_fails_keeps_its_error_and_the_others_learn_of_it(tmp_path: Path) -> None:
    main, other = in_two_processes(failing, tmp_path)
    assert isinstance(main, LostRankError)
    assert (main.exit_code, str(main)) == (3, "another process of this run ended")
    assert isinstance(other, ConfigError)


def sharing(world: World) -> list[str]:
    try:
        world.share_failure(DataError("x.png: cut off") if world.rank == 1 else None, "read its data")
    except SharedFailureError as error:
        return [f"{type(error.reason).__name__}: {error.reason}", *world.broadcast(["still together"])]
    return []


def test_a_shared_failure_is_known_to_all_while_they_are_still_together(tmp_path: Path) -> None:
    assert in_two_processes(sharing, tmp_path) == [
        ["LostRankError: another process of this run could not read its data", "still together"],
        ["DataError: x.png: cut off", "still together"],
    ]


def in_turn(world: World, folder: Path) -> list[str]:
    with world.main_first():
        before = [path.name for path in folder.iterdir()]
        (folder / f"was here {world.rank}").touch()
    return before


def test_the_main_process_goes_first(tmp_path: Path) -> None:
    (tmp_path / "place").mkdir()
    main, other = in_two_processes(in_turn, tmp_path, tmp_path / "place")
    assert (main, other) == ([], ["was here 0"])


def test_a_world_of_one_gives_back_what_it_is_given() -> None:
    with join(0, 1, 0, CPU, timeout=1) as world:
        assert not dist.is_initialized()
        tensor = torch.tensor([3])
        assert world.sum(tensor) is tensor
        assert world.max(tensor) is tensor
        assert (world.any(True), world.any(False), world.largest(5)) == (True, False, 5)
        assert (world.gather("a"), world.broadcast("b")) == (["a"], "b")
        world.barrier()
        with pytest.raises(DataError):
            world.share_failure(DataError("x"), "read")
    assert World.solo(CPU) == World(0, 1, 0, CPU)


@pytest.mark.gpu
def test_one_process_group_carries_tensors_over_nccl_and_values_over_gloo(tmp_path: Path) -> None:
    device = torch.device("cuda:0")
    store = dist.FileStore(str(tmp_path / "store"), 1)
    dist.init_process_group("cpu:gloo,cuda:nccl", rank=0, world_size=1, store=store, device_id=device)
    try:
        tensor, values = torch.ones(3, device=device), [("plain", 1)]
        dist.all_reduce(tensor)
        dist.broadcast_object_list(values, src=0)
        assert (tensor.tolist(), values) == ([1.0, 1.0, 1.0], [("plain", 1)])
    finally:
        dist.destroy_process_group()
