"""What happens to cores while a pipeline runs: their clocks, and whether they are taken away."""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from typing import NamedTuple

from cospipe.backends.profiling.core_state import (
    ReadText,
    clocks_mhz,
    highest_clock_mhz,
    online_cpus,
    read_here,
)
from cospipe.backends.runtime.placement import cpu_text

_THROTTLED_BELOW = 0.9
_FEWEST_SAMPLES = 3


class PinnedThread(NamedTuple):
    """A thread that should stay on some cores; ``native_id`` is the kernel's number of it."""

    name: str
    native_id: int
    cpu_ids: tuple[int, ...]


class MachineMonitor:
    """Looks at clocks, cores and threads now and then; memory does not grow with the number of times.

    Parameters
    ----------
    cpu_ids : iterable of int
        Cores that the stages use.
    read : callable
        Returns a text file of the machine.
    """

    def __init__(self, cpu_ids: Iterable[int], read: ReadText = read_here) -> None:
        self._cpu_ids = tuple(sorted(set(cpu_ids)))
        self._read = read
        self._lock = threading.Lock()
        self._nominal_mhz = {cpu: highest_clock_mhz(cpu, read) for cpu in self._cpu_ids}
        self._seen_mhz: dict[int, Counter[int]] = {cpu: Counter() for cpu in self._cpu_ids}
        self._allowed_first = os.sched_getaffinity(0)
        self._lost: dict[str, str] = {}
        self.samples = 0

    def sample(self, threads: Sequence[PinnedThread]) -> None:
        """Read the clock of each core, and where each thread may run, once."""
        with self._lock:
            self.samples += 1
            for cpu in self._cpu_ids:
                self._seen_mhz[cpu].update(round(clock) for clock in clocks_mhz((cpu,), self._read))
            for what, sentence in (*self._lost_cpus(), *_moved_threads(threads)):
                self._lost.setdefault(what, sentence)

    def _lost_cpus(self) -> Iterator[tuple[str, str]]:
        """Yield each core that was lost, and a sentence on it."""
        online = online_cpus(self._read)
        off = set(self._cpu_ids) - online if online is not None else set()
        # what this thread may use no more, the stages may not use either: their cpuset was changed
        forbidden = set(self._cpu_ids) & self._allowed_first - os.sched_getaffinity(0) - off
        yield from ((f"cpu {cpu}", f"cpu {cpu} went offline while the pipeline ran.") for cpu in sorted(off))
        yield from ((f"cpu {cpu}", f"This process may use cpu {cpu} no more.") for cpu in sorted(forbidden))

    def clocks(self) -> dict[str, dict[str, float | None]]:
        """Return what was seen of each core's clock, MHz; cores whose clock the machine does not tell are missing."""
        with self._lock:
            return {str(cpu): self._clock(cpu) for cpu in self._cpu_ids if self._seen_mhz[cpu]}

    def _clock(self, cpu: int) -> dict[str, float | None]:
        seen = self._seen_mhz[cpu]
        return {
            "lowest": min(seen),
            "median": _median(seen),
            "highest": max(seen),
            "nominal": self._nominal_mhz[cpu],
        }

    def lost_cores(self) -> list[str]:
        """Return what was lost since the start, as sentences: cores, and cores that threads were moved away from."""
        with self._lock:
            return list(self._lost.values())

    def warnings(self) -> list[str]:
        """Return what was lost, and cores that were mostly slower than they can be, as sentences."""
        with self._lock:
            return [*self._lost.values(), *(text for cpu in self._cpu_ids if (text := self._throttling(cpu)))]

    def _throttling(self, cpu: int) -> str:
        seen, nominal_mhz = self._seen_mhz[cpu], self._nominal_mhz[cpu]
        total = sum(seen.values())
        if nominal_mhz is None or total < _FEWEST_SAMPLES:
            return ""
        slow = sum(count for clock, count in seen.items() if clock < _THROTTLED_BELOW * nominal_mhz)
        if slow <= total / 2:
            return ""
        return (
            f"cpu {cpu} ran below {_THROTTLED_BELOW:.0%} of its {nominal_mhz:.0f} MHz in {slow} of {total} samples, at "
            f"{_median(seen)} MHz in the median: it was throttled (heat, power), or its governor holds it back."
        )


def _median(seen: Counter[int]) -> int:
    clocks = sorted(seen)
    middle = (sum(seen.values()) + 1) // 2
    counts = accumulate(seen[clock] for clock in clocks)
    return next(clock for clock, count in zip(clocks, counts, strict=True) if count >= middle)


def _moved_threads(threads: Sequence[PinnedThread]) -> Iterator[tuple[str, str]]:
    """Yield the name of each thread that is not where it should be, and a sentence on it."""
    for thread in threads:
        try:
            cpus = os.sched_getaffinity(thread.native_id)
        except OSError:
            continue  # it has ended
        if cpus != set(thread.cpu_ids):
            where = f"from {cpu_text(thread.cpu_ids)} to {cpu_text(cpus)}"
            yield thread.name, f"{thread.name} was moved {where} while it ran."
