"""The batch size that would fit, with a memory of so many images."""

from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest
import torch

from segtrain.engine.memory import evaluation_fits, is_out_of_memory, largest_that_fits, prediction_fits
from segtrain.errors import MachineError


@pytest.mark.parametrize("capacity", range(12))
def test_the_largest_that_fits_is_found(capacity: int) -> None:
    def attempt(count: int) -> None:
        if count > capacity:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    assert largest_that_fits(attempt, failed=12) == capacity


def test_another_error_while_trying_is_not_hidden() -> None:
    def attempt(count: int) -> None:
        raise RuntimeError("something else")

    with pytest.raises(RuntimeError, match="something else"):
        largest_that_fits(attempt, failed=4)


def test_torchs_own_refusal_to_allocate_is_recognised() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))


def test_a_prediction_and_an_evaluation_are_told_what_each_can_change() -> None:
    def said_by(fits: Callable[[], AbstractContextManager[None]]) -> str:
        with pytest.raises(MachineError, match="CUDA out of memory; it is full") as caught, fits():
            raise torch.OutOfMemoryError("CUDA out of memory; it is full\nand more")
        return str(caught.value)

    for key in ("inference=slide", "inference.memory", "inference.batch_size"):
        assert key in said_by(prediction_fits)
    assert "eval_batch_size" not in said_by(prediction_fits)  # predictions are made one by one
    assert "inference.scale" not in said_by(prediction_fits)  # only inference=whole has it
    assert "data.eval_batch_size" in said_by(evaluation_fits)


def test_another_error_in_a_prediction_is_not_taken_for_it() -> None:
    with pytest.raises(RuntimeError, match="cannot be multiplied"), prediction_fits():
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")
