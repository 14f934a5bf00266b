"""Which weights a frame meets: those that were current when it was accepted, in every stage."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Sequence
from typing import Any

Weights = list[Any]
"""The weight arguments of a build, as tensors."""


class WeightGenerations:
    """The weights of every build by generation, each kept until the last frame that was accepted with it has left.

    Frames may overtake each other between replicas, so a newer frame says nothing about older ones.

    Parameters
    ----------
    first : sequence of list
        The weights of every build at the start.
    """

    def __init__(self, first: Sequence[Weights]) -> None:
        self._lock = threading.Lock()
        self._weights = {0: list(first)}
        self._inside: Counter[int] = Counter()
        self._current = 0
        self._run: object = None
        self._accepted = 0

    def begin_run(self, run: object) -> None:
        """Count the accepted frames of a run from zero, and those of no other any more."""
        with self._lock:
            self._run, self._accepted = run, 0

    def enter(self, run: object) -> int:
        """Count a frame that is about to be accepted; return its generation."""
        with self._lock:
            self._accepted += run is self._run
            self._inside[self._current] += 1
            return self._current

    def leave(self, generation: int) -> None:
        """Count a frame that the last stage has finished; let its weights go when no other frame meets them."""
        with self._lock:
            self._inside[generation] -= 1
            self._let_go(generation)

    @property
    def frames_inside(self) -> int:
        """How many frames were accepted and have not left the last stage."""
        with self._lock:
            return self._inside.total()

    def get(self, generation: int, build: int) -> Weights:
        """Return the weights of a build that frames of a generation meet."""
        return self._weights[generation][build]

    def add(self, weights: Sequence[Weights]) -> int:
        """Give new weights to every frame from now on; return how many frames of the run were accepted before."""
        with self._lock:
            previous, self._current = self._current, self._current + 1
            self._weights[self._current] = list(weights)
            self._let_go(previous)
            return self._accepted

    def _let_go(self, generation: int) -> None:
        if generation != self._current and not self._inside[generation]:
            del self._weights[generation], self._inside[generation]

    def __len__(self) -> int:
        """Return how many generations are in memory."""
        return len(self._weights)
