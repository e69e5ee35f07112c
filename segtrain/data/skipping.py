"""Items that cannot be read and are left out by choice (`data.on_error=skip`): listed, counted, bounded."""

import logging
from collections.abc import Callable

from segtrain.errors import DataError

log = logging.getLogger("segtrain")


class SkippedItems:
    """The items left out so far; each is listed once in the log, however often it is met again.

    Args:
        limit: `data.max_skipped`.
        name: index -> what a message calls the item.

    Attributes:
        reasons: name -> why it could not be read.
    """

    def __init__(self, limit: int, name: Callable[[int], str]) -> None:
        self.limit = limit
        self.reasons: dict[str, str] = {}
        self._name = name

    def add(self, index: int, reason: str) -> None:
        """Notes one.

        Raises:
            DataError: with all of them, where they are now more than `limit`.
        """
        name = self._name(index)
        if name in self.reasons:
            return
        self.reasons[name] = reason
        if len(self.reasons) > self.limit:
            lines = [f"{name}: {reason}" for name, reason in self.reasons.items()]
            raise DataError(
                f"{len(lines)} samples could not be read, more than data.max_skipped={self.limit}:\n" + "\n".join(lines)
            )
        log.warning("skipped sample %s (%d of at most %d): %s", name, len(self.reasons), self.limit, reason)
