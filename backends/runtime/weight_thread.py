"""Making weights beside running stages, in one thread of this process that has a pool of one core."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache

from cospipe.backends.runtime.adapter_weights import Overrides
from cospipe.backends.runtime.generations import Weights
from cospipe.backends.runtime.placement import available_cpus
from cospipe.backends.runtime.tvm_runtime import configure_thread_pool
from cospipe.backends.runtime.worker import SharedBuild


def weights_with(builds: Sequence[SharedBuild], overrides: dict[str, Overrides]) -> list[Weights]:
    """Return the weights of each build with other values for some; wait for them.

    TVM code runs where its pool neither pins the caller's thread nor takes the cores of the stages.
    """
    return _thread_of_one_core().submit(lambda: [_weights_with(build, overrides) for build in builds]).result()


def _weights_with(build: SharedBuild, overrides: dict[str, Overrides]) -> Weights:
    return build.first.weights_with(overrides[build.first.files.name])


@cache
def _thread_of_one_core() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(
        max_workers=1, thread_name_prefix="adapter", initializer=configure_thread_pool, initargs=(available_cpus(), 1)
    )
