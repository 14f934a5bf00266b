"""A quick measurement of the memory bandwidth that one core reaches."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import numpy as np
import numpy.typing as npt

ARRAY_BYTES = 16 << 20
"""Of each of two arrays: more than the caches of any board hold, and quickly filled."""
SECONDS_PER_CPU = 0.01

Bytes = npt.NDArray[np.uint8]


@cache
def copy_rates_gb_per_s(cpu_ids: tuple[int, ...]) -> Mapping[int, float]:
    """Measure how fast single CPUs copy memory, each byte counted once; remembered for the process.

    Copying both reads and writes. Counting its bytes once comes close to the rate at which layers that only
    stream their weights read them (docs/adding-a-board.md), so it serves as the read bandwidth.

    Parameters
    ----------
    cpu_ids : tuple of int
        CPUs to measure on, one after another. Where this process may not use one, the system chooses another.

    Returns
    -------
    mapping of int to float
        The best rate of each CPU's copies, in GB/s.
    """
    # Written once, so that every page has memory of its own before a clock starts.
    source, target = np.full(ARRAY_BYTES, 1, np.uint8), np.full(ARRAY_BYTES, 2, np.uint8)
    rates = {}
    for cpu in cpu_ids:
        with ThreadPoolExecutor(max_workers=1) as executor:  # a thread of its own: its affinity ends with it
            rates[cpu] = executor.submit(_copy_rate, cpu, source, target).result()
    return rates


def _copy_rate(cpu: int, source: Bytes, target: Bytes) -> float:
    if cpu in os.sched_getaffinity(0):
        os.sched_setaffinity(0, {cpu})  # 0 is the calling thread
    fastest = _copy_seconds(source, target)
    end = time.perf_counter() + SECONDS_PER_CPU
    while time.perf_counter() < end:
        fastest = min(fastest, _copy_seconds(source, target))
    return round(source.nbytes / fastest / 1e9, 2)


def _copy_seconds(source: Bytes, target: Bytes) -> float:
    start = time.perf_counter()
    np.copyto(target, source)
    return time.perf_counter() - start
