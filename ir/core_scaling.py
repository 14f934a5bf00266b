"""From times on some numbers of cores to the time on another number."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def time_on_cores(times_us: Mapping[int, float], cores: int, efficiency: Sequence[float] = ()) -> float:
    """Return the time on a number of cores that was perhaps not measured.

    Between (and beyond) measured numbers a time is a part that the cores share and one that they do not,
    t(n) = shared / n + alone, through the two nearest measured ones; neither part is negative. With one measured
    number m, t(n) = t(m) m e(m) / (n e(n)) with the chip's parallel efficiency e.

    Parameters
    ----------
    times_us : mapping of int to float
        Microseconds by number of cores; at least one.
    cores : int
        The number asked for.
    efficiency : sequence of float
        Parallel efficiency of 1, 2, ... cores; perfect where it ends.
    """
    if cores in times_us:
        return times_us[cores]
    nearest = sorted(times_us, key=lambda count: (abs(count - cores), count))[:2]
    if len(nearest) == 1:
        speed_there, speed_here = (count * _efficiency(efficiency, count) for count in (nearest[0], cores))
        return times_us[nearest[0]] * speed_there / speed_here
    few, many = sorted(nearest)
    shared = (times_us[few] - times_us[many]) / (1 / few - 1 / many)
    shared = min(max(shared, 0.0), times_us[many] * many)
    return shared / cores + times_us[many] - shared / many


def _efficiency(efficiency: Sequence[float], cores: int) -> float:
    return efficiency[cores - 1] if cores <= len(efficiency) else 1.0
