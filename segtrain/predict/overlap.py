"""Reading ahead and writing behind, in threads, while the caller works; within a bound, and all end together."""

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Self, TypeVar

Item = TypeVar("Item")

POLL = 0.5  # seconds; a wait without a limit could not be interrupted everywhere
PATIENCE = (
    10.0  # seconds that the end of a failed run waits for its threads, which look for it at every chunk they write
)


class Ended(Exception):  # noqa: N818 - no error of its own: another thread's, or the caller's, ended this one
    """Raised in a thread when all are to end."""


@dataclass
class Bound:
    """How much may be on its way at once: `items`, and `size` bytes, of which one item alone may have more."""

    items: int
    size: int
    held_items: int = 0
    held_size: int = 0

    def admits(self, size: int) -> bool:
        return self.held_items == 0 or (self.held_items < self.items and self.held_size + size <= self.size)

    def enter(self, size: int) -> None:
        self.held_items += 1
        self.held_size += size

    def leave(self, size: int) -> None:
        self.held_items -= 1
        self.held_size -= size


class Overlap:
    """One thread that reads ahead, and some that write behind.

        with Overlap(items=4, size=2**28, writers=2) as overlap:
            for image in overlap.ahead(images, size_of):
                labels = model(image)
                overlap.behind(lambda labels=labels: save(labels), labels.nbytes)

    Order is kept: what is read is handed out in its order, and tasks that are to run `in_order` run one after the other
    in the order in which they were handed over. Whatever is raised, by reading, by a task or in the block, ends all
    threads, and is raised from the block; of several failures the first. A block that ends well waits for all tasks.

    Args:
        items: the most that may have been read and not yet handed out; and the most that may wait to be written or be
            being written.
        size: likewise in bytes, for each of the two.
        writers: threads for tasks in any order; one more runs those in order.
    """

    def __init__(self, items: int, size: int, writers: int) -> None:
        self._changed = threading.Condition()
        self._ahead = Bound(items, size)
        self._behind = Bound(items, size)
        self._read: deque[tuple[object, int]] = deque()
        self._all_read = False
        self._tasks: dict[bool, deque[tuple[Callable[[], None], int]]] = {False: deque(), True: deque()}
        self._all_handed_over = False
        self._ended = False
        self._failure: BaseException | None = None
        orders = [False] * writers + [True]
        self._threads = [threading.Thread(target=self._write, args=(order,), daemon=True) for order in orders]

    def check(self) -> None:
        """Raises Ended where all are to end: tasks that take long look now and then."""
        if self._ended:
            raise Ended

    def ahead(self, items: Iterable[Item], size_of: Callable[[Item], int]) -> Iterator[Item]:
        """The items, read in a thread of their own before they are asked for. May be called once."""
        reader = threading.Thread(target=self._read_all, args=(items, size_of), daemon=True)
        self._threads.append(reader)
        reader.start()
        while True:
            with self._changed:
                self._wait(lambda: bool(self._read) or self._all_read)
                self._raise_failure()
                if not self._read:
                    return
                item, size = self._read.popleft()
                self._ahead.leave(size)
                self._changed.notify_all()
            yield item  # type: ignore[misc]

    def behind(self, task: Callable[[], None], size: int, in_order: bool = False) -> None:
        """Has a thread call `task`, which holds `size` bytes; waits where too much is on its way already."""
        with self._changed:
            self._wait(partial(self._behind.admits, size))
            self._raise_failure()
            self._behind.enter(size)
            self._tasks[in_order].append((task, size))
            self._changed.notify_all()

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                with self._changed:
                    self._all_handed_over = True
                    self._changed.notify_all()
                    self._wait(lambda: self._behind.held_items == 0)
                    self._raise_failure()
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify_all()
            for thread in self._threads:
                thread.join(PATIENCE)

    def _wait(self, condition: Callable[[], bool]) -> None:
        """Waits for the condition, or for the end of all; `_changed` is held."""
        while not (self._ended or condition()):
            self._changed.wait(POLL)

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure
        self.check()

    def _fail(self, failure: BaseException) -> None:
        with self._changed:
            if not isinstance(failure, Ended) and self._failure is None:
                self._failure = failure
            self._ended = True
            self._changed.notify_all()

    def _read_all(self, items: Iterable[Item], size_of: Callable[[Item], int]) -> None:
        try:
            for item in items:
                size = size_of(item)
                with self._changed:
                    self._wait(partial(self._ahead.admits, size))
                    self.check()
                    self._ahead.enter(size)
                    self._read.append((item, size))
                    self._changed.notify_all()
                del item  # waits in the queue, not here as well
            with self._changed:
                self._all_read = True
                self._changed.notify_all()
        except BaseException as failure:
            self._fail(failure)
        finally:
            if isinstance(items, Generator):
                items.close()  # with what it holds open

    def _write(self, in_order: bool) -> None:
        tasks = self._tasks[in_order]
        while True:
            with self._changed:
                self._wait(lambda: bool(tasks) or self._all_handed_over)
                if self._ended or not tasks:
                    return
                task, size = tasks.popleft()
            try:
                task()
            except BaseException as failure:
                self._fail(failure)
                return
            finally:
                del task  # and the arrays it holds
                with self._changed:
                    self._behind.leave(size)
                    self._changed.notify_all()
