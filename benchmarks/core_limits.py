"""What the cores of this machine can do at most: multiply-adds, and reading from each level of memory.

Both are measured with loops that TVM compiles as it compiles our kernels. Multiply-adds: chains in registers, enough to
cover the latency of one. Reading: the sum of an array that fits into half of a cache, or into none of them. The best of
many short runs counts; on a busy machine even that may be less than the cores can do.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import tvm
from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from cospipe.backends.profiling.pinned_thread import run_on_cores
from cospipe.backends.tvm.target import core_target, kernel_core
from cospipe.backends.tvm.tiling import FP32_BYTES, Core
from cospipe.ir.soc import Cluster

_MULTIPLY_ADD_TURNS = 200_000
_READ_BYTES_A_RUN = 32 << 20
_MEMORY_ARRAY_BYTES = 128 << 20
_STREAMS = 8
_FEWEST_RUNS, _SECONDS = 20, 0.3


@dataclass(frozen=True)
class CoreLimits:
    """What some cores reach together.

    Parameters
    ----------
    threads : int
        Cores, one thread each.
    gflops : float
        FP32 operations in registers, in 1e9 a second; a multiply-add counts as two.
    gb_per_s : dict of str to float
        Rate at which an array is read, by where it lies: ``L1``, ``L2``, ``L3`` (if there is one) and ``memory``.
    """

    threads: int
    gflops: float
    gb_per_s: dict[str, float]


def measure_limits(cluster: Cluster, architecture: str, threads: int) -> CoreLimits:
    """Measure some cores of a cluster of this machine."""
    return run_on_cores(cluster.cpu_ids[:threads], lambda: _measure(cluster, architecture, threads))


def _measure(cluster: Cluster, architecture: str, threads: int) -> CoreLimits:
    core, target = kernel_core(cluster, threads, architecture), core_target(cluster, threads, architecture)
    rates = {level: _read_rate(size, core, target) for level, size in array_bytes(cluster).items()}
    return CoreLimits(threads, round(_peak_gflops(core, target), 1), {k: round(rate, 1) for k, rate in rates.items()})


def array_bytes(cluster: Cluster) -> dict[str, int]:
    """Return how large an array of each core is that is read from each level."""
    kib = {"L1": cluster.l1d_kib, "L2": cluster.l2_kib // (cluster.cores if cluster.l2_shared else 1)}
    if cluster.l3_kib:
        kib["L3"] = min(cluster.l3_kib // cluster.cores, 8 * cluster.l2_kib)
    return {**{level: size * 1024 // 2 for level, size in kib.items()}, "memory": _MEMORY_ARRAY_BYTES}


def _peak_gflops(core: Core, target: tvm.target.Target) -> float:
    chains = core.registers - 4
    run = _compiled(multiply_adds(core, chains, _MULTIPLY_ADD_TURNS), target)
    numbers = tvm.runtime.tensor(np.full((2, core.lanes), 0.5, np.float32))
    sums = tvm.runtime.tensor(np.zeros((core.cores, chains, core.lanes), np.float32))
    operations = 2 * core.cores * chains * core.lanes * _MULTIPLY_ADD_TURNS
    return operations / _best_seconds(lambda: run(numbers, sums)) / 1e9


def _read_rate(size: int, core: Core, target: tvm.target.Target) -> float:
    steps = max(1, size // (FP32_BYTES * core.lanes * _STREAMS))
    turns = max(1, _READ_BYTES_A_RUN // size)
    run = _compiled(array_sum(core, steps, turns), target)
    data = tvm.runtime.tensor(np.ones((core.cores, steps, _STREAMS, core.lanes), np.float32))
    sums = tvm.runtime.tensor(np.zeros((core.cores, _STREAMS, core.lanes), np.float32))
    read_bytes = core.cores * steps * _STREAMS * core.lanes * FP32_BYTES * turns
    return read_bytes / _best_seconds(lambda: run(data, sums)) / 1e9


def _compiled(function: tirx.PrimFunc, target: tvm.target.Target) -> Callable[..., object]:
    compiled: Callable[..., object] = tvm.compile(tvm.IRModule({"main": function}), target=target)["main"]
    return compiled


def multiply_adds(core: Core, chains: int, turns: int) -> tirx.PrimFunc:
    """Return a function that computes ``x * numbers[0] + numbers[1]`` over and over, on every core.

    It takes the numbers, shape (2, lanes), and the last values of x, shape (cores, chains, lanes).
    """

    def emit(numbers: Any, sums: Any, part: Any) -> None:
        registers = [T.alloc_buffer((core.lanes,), "float32", scope="global") for _ in range(chains)]
        factor, addend = (T.alloc_buffer((core.lanes,), "float32", scope="global") for _ in range(2))
        with T.vectorized(core.lanes) as lane:
            T.buffer_store(factor, numbers[0, lane], [lane])
            T.buffer_store(addend, numbers[1, lane], [lane])
            for chain, register in enumerate(registers):
                T.buffer_store(register, tirx.const(float(chain), "float32"), [lane])
        with T.serial(turns), T.vectorized(core.lanes) as lane:
            for register in registers:
                T.buffer_store(register, register[lane] * factor[lane] + addend[lane], [lane])
        with T.vectorized(core.lanes) as lane:
            for chain, register in enumerate(registers):
                T.buffer_store(sums, register[lane], [part, chain, lane])

    return _function((2, core.lanes), (core.cores, chains, core.lanes), core, emit)


def array_sum(core: Core, steps: int, turns: int) -> tirx.PrimFunc:
    """Return a function that reads an array ``turns`` times and sums it up, a part on every core.

    It takes the array, shape (cores, steps, streams, lanes), and the sums, shape (cores, streams, lanes).
    """

    def emit(data: Any, sums: Any, part: Any) -> None:
        registers = [T.alloc_buffer((core.lanes,), "float32", scope="global") for _ in range(_STREAMS)]
        with T.vectorized(core.lanes) as lane:
            for register in registers:
                T.buffer_store(register, tirx.const(0.0, "float32"), [lane])
        with T.serial(turns), T.serial(steps) as step, T.vectorized(core.lanes) as lane:
            for stream, register in enumerate(registers):
                T.buffer_store(register, register[lane] + data[part, step, stream, lane], [lane])
        with T.vectorized(core.lanes) as lane:
            for stream, register in enumerate(registers):
                T.buffer_store(sums, register[lane], [part, stream, lane])

    return _function((core.cores, steps, _STREAMS, core.lanes), (core.cores, _STREAMS, core.lanes), core, emit)


def _function(
    taken: tuple[int, ...], given: tuple[int, ...], core: Core, emit: Callable[[Any, Any, Any], None]
) -> tirx.PrimFunc:
    with IRBuilder() as builder, T.prim_func():
        T.func_name("main")
        first = T.arg("taken", T.buffer(taken, "float32"))
        second = T.arg("given", T.buffer(given, "float32"))
        if core.cores == 1:
            with T.serial(1):
                emit(first, second, 0)
        else:
            with T.parallel(core.cores) as part:
                emit(first, second, part)
    return builder.get()


def _best_seconds(run: Callable[[], object]) -> float:
    run()
    times: list[float] = []
    end = time.perf_counter() + _SECONDS
    while len(times) < _FEWEST_RUNS or time.perf_counter() < end:
        started = time.perf_counter()
        run()
        times.append(time.perf_counter() - started)
    return min(times)
