"""Timing in rounds: each runs the network once as it is and once with a clock around its kernels.

Machines do other things, too. A time during which another program took a core away counts only when there are too few
without; then the shortest times count, which were disturbed least. Kernels are looked at one by one: on a busy machine
hardly any run of a whole network is undisturbed, but most of its kernels are.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Times = NDArray[np.float64]
"""Microseconds."""
Flags = NDArray[np.bool_]

WARM_UP_ROUNDS = 3
MOST_TIMES_AS_MANY = 3
"""Disturbed rounds are repeated until this many times as many as wanted were run."""


class TimedNetwork(Protocol):
    """What is timed."""

    def run_whole(self) -> float:
        """Run one frame without looking at kernels; return its microseconds."""

    def run_clocked(self) -> tuple[list[float], list[bool]]:
        """Run one frame; return the microseconds of each kernel in order, and whether nothing disturbed it."""

    def switches(self) -> int:
        """Return how often another program took a core away so far."""


@dataclass(frozen=True)
class Timing:
    """What was measured.

    Parameters
    ----------
    network_us : array of shape (rounds,)
        Time of the whole network.
    is_network_clean : array of shape (rounds,)
        Whether nothing disturbed it.
    kernel_us : array of shape (rounds, kernels)
        Time of each kernel.
    is_kernel_clean : array of shape (rounds, kernels)
        Whether nothing disturbed it.
    wanted : int
        Undisturbed rounds that were wanted.
    """

    network_us: Times
    is_network_clean: Flags
    kernel_us: Times
    is_kernel_clean: Flags
    wanted: int

    def of_network(self) -> Times:
        """Return the times of the whole network that count."""
        return counting_times(self.network_us, self.is_network_clean, self.wanted)

    def of_kernels(self, places: Sequence[int]) -> Times:
        """Return the times that some kernels take together and that count."""
        chosen = list(places)
        is_clean: Flags = np.logical_and.reduce(self.is_kernel_clean[:, chosen], axis=1)
        return counting_times(self.kernel_us[:, chosen].sum(axis=1), is_clean, self.wanted)


@dataclass(frozen=True)
class _Round:
    network_us: float
    is_network_clean: bool
    kernel_us: list[float]
    is_kernel_clean: list[bool]


def time_rounds(network: TimedNetwork, rounds: int, progress: Callable[[], None] = lambda: None) -> Timing:
    """Time a network and its kernels.

    Parameters
    ----------
    network : TimedNetwork
        What is timed; its first rounds warm it up and do not count.
    rounds : int
        Undisturbed times that are wanted of the network and of every kernel.
    progress : callable
        Is told of every round.
    """
    for _ in range(WARM_UP_ROUNDS):
        _round(network)
    done: list[_Round] = []
    with without_garbage_collection():
        while len(done) < MOST_TIMES_AS_MANY * rounds and _fewest_clean(done) < rounds:
            done.append(_round(network))
            progress()
    return Timing(
        np.array([one.network_us for one in done]),
        np.array([one.is_network_clean for one in done]),
        np.array([one.kernel_us for one in done]),
        np.array([one.is_kernel_clean for one in done]),
        rounds,
    )


def counting_times(times_us: Times, is_clean: Flags, wanted: int) -> Times:
    """Return the times that count: the undisturbed, filled up with the shortest others to a third of what is wanted."""
    by_merit = np.lexsort((times_us, ~is_clean))
    return times_us[by_merit[: max(int(is_clean.sum()), -(-wanted // 3))]]


def _fewest_clean(done: Sequence[_Round]) -> int:
    whole = sum(one.is_network_clean for one in done)
    kernels = np.array([one.is_kernel_clean for one in done]).sum(axis=0) if done else np.zeros(1)
    return min(whole, int(kernels.min(initial=whole)))


def _round(network: TimedNetwork) -> _Round:
    before = network.switches()
    network_us = network.run_whole()
    is_network_clean = network.switches() == before
    return _Round(network_us, is_network_clean, *network.run_clocked())


@contextmanager
def without_garbage_collection() -> Iterator[None]:
    """Collect Python's garbage now, and not again before the end."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
