"""What stages hand frames over with: a queue with room for a few, which can be closed."""

from __future__ import annotations

from contextlib import suppress
from math import isinf
from queue import Empty, SimpleQueue
from typing import Any, Generic, TypeVar

_Item = TypeVar("_Item")


class Link(Generic[_Item]):
    """A queue between threads; closing it ends every wait at once.

    Python's own SimpleQueue hands over at two thirds of the cost of conditions. A second one holds a token for each
    item that there is room for.

    Parameters
    ----------
    room : float
        Items that may wait in it, ``inf`` for any number; whoever brings one more waits until another was taken.
    """

    def __init__(self, room: float) -> None:
        self._items: SimpleQueue[Any] = SimpleQueue()
        self._tokens: SimpleQueue[None] | None = None if isinf(room) else SimpleQueue()
        self._is_closed = False
        if self._tokens is not None:
            for _ in range(int(room)):
                self._tokens.put(None)

    def put(self, item: _Item) -> bool:
        """Add an item once there is room; return False, without it, when the link is closed."""
        if self._tokens is not None:
            self._tokens.get()
        if self._is_closed:
            self._wake_next()
            return False
        self._items.put(item)
        return True

    def get(self) -> _Item | None:
        """Take the oldest item once there is one; return None when the link is closed, whatever is left in it."""
        taken = self.take()
        return None if taken is None else taken[0]

    def take(self) -> tuple[_Item, int] | None:
        """Do what :meth:`get` does, and tell how many items wait behind the one that is taken."""
        item = self._items.get()
        if self._is_closed:
            self._wake_next()
            return None
        if self._tokens is not None:
            self._tokens.put(None)
        return item, self._items.qsize()

    @property
    def is_closed(self) -> bool:
        """Whether nothing comes out any more."""
        return self._is_closed

    def __len__(self) -> int:
        """Return how many items wait."""
        return self._items.qsize()

    def close(self) -> None:
        """End every wait, now and later; items that nobody has taken are let go."""
        self._is_closed = True
        with suppress(Empty):
            while True:
                self._items.get_nowait()
        self._wake_next()

    def _wake_next(self) -> None:
        """Wake whoever waits first; in turn it wakes the next."""
        self._items.put(None)
        if self._tokens is not None:
            self._tokens.put(None)
