"""A thread with a pool of TVM's on some cores, one thread a core, as the runner gives each stage one."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from cospipe.backends.runtime.tvm_runtime import configure_thread_pool

Result = TypeVar("Result")


def run_on_cores(cpu_ids: Sequence[int], work: Callable[[], Result]) -> Result:
    """Run a function in a new thread whose kernels share these cores, and return what it returns."""

    def pin() -> None:
        os.sched_setaffinity(0, cpu_ids)
        configure_thread_pool(cpu_ids, len(cpu_ids))
        os.sched_setaffinity(0, cpu_ids[:1])  # the pool has just widened it to all its cores

    with ThreadPoolExecutor(1, initializer=pin) as thread:
        return thread.submit(work).result()
