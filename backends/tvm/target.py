"""TVM targets and vector units from SoC descriptions: one cluster, one target."""

from __future__ import annotations

from math import log2

from tvm.target import Target

from cospipe.backends.tvm.tiling import FP32_BYTES, Core
from cospipe.ir.errors import UsageError
from cospipe.ir.soc import Cluster, Soc

_TRIPLES = {"aarch64": "aarch64-linux-gnu", "x86_64": "x86_64-linux-gnu"}
_MOST_BYTES_PER_CYCLE = 8.0
"""Winograd's products of 512 channels on 7x7 pixels read 9.3 bytes a cycle from the L3 of a Zen 4 core."""
_WEIGHTS_FIRST = frozenset({"cortex-a53"})
"""By llvm-mca every change between loads and multiply-adds costs an A53 some ten cycles, so loads are best in groups:
1.4 to 1.5 cycles a multiply-add, where a load before each step takes 1.7. LLVM keeps the groups only if it is told
neither of the core, for which it unrolls loops and mixes their turns, nor of latencies: 1.8 to 2.2."""
_LLVM_CORES = {"cortex-a53": "generic"}
_LLVM_OPTIONS = {"cortex-a53": ["-schedmodel:bool=false"]}


def core_target(cluster: Cluster, cores: int, architecture: str) -> Target:
    """Return the target of a stage that runs on some cores of a cluster."""
    return Target(
        {
            "kind": "llvm",
            "mtriple": _TRIPLES[architecture],
            "mcpu": _LLVM_CORES.get(cluster.core_type, cluster.core_type),
            "mattr": list(cluster.features),
            "num-cores": cores,
            "cl-opt": _LLVM_OPTIONS.get(cluster.core_type, []),
        }
    )


def kernel_core(cluster: Cluster, cores: int, architecture: str) -> Core:
    """Return what kernels must know of some cores of a cluster.

    Memory bandwidth is rounded to a power of two, and to what kernels were seen to use at most: that of ``host`` is
    measured, and two measurements should lead to the same kernels.
    """
    shared_by = cluster.cores if cluster.l2_shared else 1
    bytes_per_cycle = cluster.memory_bandwidth_gb_per_s[cores - 1] * 1e3 / cluster.max_clock_mhz
    return Core(
        architecture=architecture,
        simd_bytes=cluster.simd_bytes,
        registers=cluster.simd_registers,
        fma_per_cycle=cluster.flop_per_cycle / (2 * cluster.simd_bytes / FP32_BYTES),
        l1_bytes=cluster.l1d_kib * 1024,
        l2_bytes=cluster.l2_kib * 1024 // shared_by,
        cores=cores,
        memory_bytes_per_cycle=min(2.0 ** round(log2(bytes_per_cycle)), _MOST_BYTES_PER_CYCLE),
        loads_weights_first=cluster.core_type in _WEIGHTS_FIRST,
    )


def check_can_bundle(soc: Soc) -> None:
    """Check that stages can be compiled for a chip.

    Raises
    ------
    UsageError
        When TVM has no runtime for its architecture.
    """
    if soc.architecture not in _TRIPLES:
        raise UsageError(
            f"{soc.name} is a 32-bit {soc.architecture} chip: it can be predicted and explored but not bundled,"
            " because TVM publishes no runtime wheel for armv7; compile for this machine instead with target host."
        )
