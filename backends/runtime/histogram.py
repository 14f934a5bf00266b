"""Times of any number of frames in little memory: counted in buckets, each a little wider than the one before."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from math import ceil, log, sqrt

_LEAST_US, _MOST_US = 0.1, 1e9
_GROWTH = 1.005
_LOG_GROWTH = log(_GROWTH)
_LAST_BUCKET = ceil(log(_MOST_US / _LEAST_US) / _LOG_GROWTH) - 1


class Histogram:
    """Counts times from 0.1 us to 1000 s; what is outside falls into the first or the last bucket.

    Each bucket is 0.5 % wider than the one before, so a percentile is off by a quarter of a percent at most. One thread
    adds times; others may read meanwhile.
    """

    def __init__(self) -> None:
        self.total_us = 0.0
        self._counts: Counter[int] = Counter()

    def add(self, time_us: float) -> None:
        """Count a time."""
        self.total_us += time_us
        self._counts[_bucket(time_us)] += 1

    @property
    def count(self) -> int:
        """How many times were added."""
        return sum(self._counts.copy().values())

    def percentile(self, percent: float) -> float | None:
        """Return the nearest-rank percentile in microseconds, the geometric middle of its bucket; None without times.

        The nearest rank of ``percent`` among n times is the ceil(percent / 100 * n)-th smallest one.
        """
        counts = sorted(self._counts.copy().items())
        rank = ceil(percent / 100 * sum(count for _, count in counts))
        for bucket, count in counts:
            rank -= count
            if rank <= 0:
                return _LEAST_US * _GROWTH**bucket * sqrt(_GROWTH)
        return None


def merged(histograms: Iterable[Histogram]) -> Histogram:
    """Return the times of several histograms together."""
    result = Histogram()
    for histogram in histograms:
        result.total_us += histogram.total_us
        result._counts.update(histogram._counts.copy())
    return result


def _bucket(time_us: float) -> int:
    if time_us <= _LEAST_US:
        return 0
    return min(int(log(time_us / _LEAST_US) / _LOG_GROWTH), _LAST_BUCKET)
