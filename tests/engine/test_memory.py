"""The batch size that would fit, with a memory of so many images."""

import pytest
import torch

from segtrain.engine.memory import is_out_of_memory, largest_that_fits


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
