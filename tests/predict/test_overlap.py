"""Reading ahead and writing behind: order, bound, and one end for all."""

import threading
from collections.abc import Iterator

import pytest

from segtrain.predict.overlap import Bound, Ended, Overlap


def size_of(item: object) -> int:
    return 1


def test_items_come_in_the_order_in_which_they_are_read() -> None:
    with Overlap(items=2, size=100, writers=1) as overlap:
        assert list(overlap.ahead(range(50), size_of)) == list(range(50))


def test_a_block_that_ends_well_waits_for_every_task() -> None:
    written: list[int] = []
    with Overlap(items=3, size=100, writers=4) as overlap:
        for number in range(40):
            overlap.behind(lambda number=number: written.append(number), 1)
    assert sorted(written) == list(range(40))


def test_tasks_in_order_run_in_order_beside_those_that_need_none() -> None:
    written: list[int] = []
    with Overlap(items=8, size=100, writers=2) as overlap:
        for number in range(60):
            overlap.behind(lambda number=number: written.append(number), 1, in_order=True)
            overlap.behind(lambda: None, 1)
    assert written == list(range(60))


def test_no_more_is_read_ahead_than_the_bound_admits() -> None:
    begun = 0
    waited = threading.Event()

    def items() -> Iterator[int]:
        nonlocal begun
        for number in range(20):
            begun = number + 1
            if begun == 4:
                waited.set()
            yield number

    with Overlap(items=3, size=100, writers=1) as overlap:
        received = overlap.ahead(items(), size_of)
        assert next(received) == 0  # starts the reader
        assert waited.wait(10)
        for taken in range(1, 20):
            # What was taken, three that wait, and one in the reader's hand, which found no room.
            assert begun <= taken + 3 + 1
            assert next(received) == taken


def test_no_more_waits_to_be_written_than_the_bound_admits() -> None:
    gate, waiting, most = threading.Semaphore(0), 0, 0
    lock = threading.Lock()

    def write() -> None:
        nonlocal waiting
        gate.acquire()
        with lock:
            waiting -= 1

    with Overlap(items=3, size=100, writers=2) as overlap:
        for number in range(12):
            if number >= 3:
                gate.release()  # room for one more, and not before
            overlap.behind(write, 1)
            with lock:
                waiting += 1
                most = max(most, waiting)
        for _ in range(3):
            gate.release()
    assert most <= 3


def test_a_bound_counts_bytes_but_admits_any_item_alone() -> None:
    bound = Bound(items=10, size=100)
    assert bound.admits(1000)
    bound.enter(60)
    assert bound.admits(40)
    assert not bound.admits(41)
    bound.enter(40)
    bound.leave(60)
    assert bound.admits(60)
    bound.leave(40)
    assert bound.admits(1000)


def running() -> int:
    return threading.active_count()


def test_a_failure_while_reading_is_raised_after_what_was_read_before_it_and_ends_all() -> None:
    before, closed = running(), threading.Event()

    def items() -> Iterator[int]:
        try:
            yield 0
            raise LookupError("no more")
        finally:
            closed.set()

    with pytest.raises(LookupError, match="no more"), Overlap(items=2, size=100, writers=2) as overlap:
        for _ in overlap.ahead(items(), size_of):
            pass
    assert closed.is_set()
    assert running() == before


@pytest.mark.parametrize("in_order", [False, True])
def test_a_failure_while_writing_is_raised_in_the_block_and_ends_all(in_order: bool) -> None:
    before, closed = running(), threading.Event()

    def endless() -> Iterator[int]:
        try:
            while True:
                yield 0
        finally:
            closed.set()

    def fail() -> None:
        raise LookupError("disk")

    def work() -> None:
        with Overlap(items=2, size=100, writers=2) as overlap:
            for _ in overlap.ahead(endless(), size_of):
                overlap.behind(fail, 1, in_order)

    with pytest.raises(LookupError, match="disk"):
        work()
    assert closed.wait(10)
    assert running() == before


def test_a_failure_of_the_last_task_is_raised_at_the_end_of_the_block() -> None:
    def fail() -> None:
        raise LookupError("last")

    with pytest.raises(LookupError, match="last"), Overlap(items=2, size=100, writers=1) as overlap:
        overlap.behind(fail, 1)


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_what_is_raised_in_the_block_ends_tasks_that_look_and_drops_those_that_wait(error: type[BaseException]) -> None:
    before, begun, ran = running(), threading.Event(), []

    overlap = Overlap(items=5, size=100, writers=1)

    def long() -> None:
        begun.set()
        while True:
            overlap.check()

    def work() -> None:
        with overlap:
            overlap.behind(long, 1)
            overlap.behind(lambda: ran.append(1), 1)
            assert begun.wait(10)
            raise error

    with pytest.raises(error):
        work()
    assert running() == before
    assert ran == []
    with pytest.raises(Ended):
        overlap.check()
