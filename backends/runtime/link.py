"""What stages hand frames over with: a queue with room for a few, which can be closed."""

from __future__ import annotations

import threading
from collections import deque
from typing import Generic, TypeVar

_Item = TypeVar("_Item")


class Link(Generic[_Item]):
    """A queue between threads; closing it ends every wait at once.

    Parameters
    ----------
    room : float
        Items that may wait in it, ``inf`` for any number; whoever brings one more waits until another was taken.
    """

    def __init__(self, room: float) -> None:
        self._room = room
        self._items: deque[_Item] = deque()
        self._is_closed = False
        lock = threading.Lock()
        self._has_item = threading.Condition(lock)
        self._has_room = threading.Condition(lock)

    def put(self, item: _Item) -> bool:
        """Add an item once there is room; return False, without it, when the link is closed."""
        with self._has_room:
            while len(self._items) >= self._room and not self._is_closed:
                self._has_room.wait()
            if self._is_closed:
                return False
            self._items.append(item)
            self._has_item.notify()
            return True

    def get(self) -> _Item | None:
        """Take the oldest item once there is one; return None when the link is closed, whatever is left in it."""
        with self._has_item:
            while not self._items and not self._is_closed:
                self._has_item.wait()
            if self._is_closed:
                return None
            self._has_room.notify()
            return self._items.popleft()

    def close(self) -> None:
        """End every wait, now and later; items that nobody has taken are let go."""
        with self._has_item:
            self._is_closed = True
            self._items.clear()
            self._has_item.notify_all()
            self._has_room.notify_all()
