"""A thread with a pool of TVM's on some cores, one thread a core, as the runner gives each stage one."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from cospipe.backends.runtime.tvm_runtime import configure_thread_pool
from cospipe.ir.errors import UsageError

Result = TypeVar("Result")


def run_on_cores(cpu_ids: Sequence[int], work: Callable[[], Result], real_time: bool = False) -> Result:
    """Run a function in a new thread whose kernels share these cores, and return what it returns.

    Threads of a pool yield while they wait for each other, so on a busy machine every kernel gives its cores away. With
    ``real_time`` they keep them.

    Raises
    ------
    UsageError
        When this process may not run in real time.
    """

    def pin() -> None:
        if real_time:
            run_in_real_time()
        os.sched_setaffinity(0, cpu_ids)
        configure_thread_pool(cpu_ids, len(cpu_ids))
        os.sched_setaffinity(0, cpu_ids[:1])  # the pool has just widened it to all its cores

    with ThreadPoolExecutor(1, initializer=pin) as thread:
        return thread.submit(work).result()


def run_in_real_time() -> None:
    """Let the calling thread, and the threads it starts from now on, go before all ordinary programs.

    Raises
    ------
    UsageError
        When this process may not.
    """
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    except PermissionError as error:
        raise UsageError("This process may not run in real time; run it as root, or without real time.") from error
