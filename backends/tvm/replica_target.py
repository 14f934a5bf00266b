"""What the library of a replica is compiled for: its cores, which may be of several types."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from tvm.target import Target, codegen

from cospipe.backends.tvm.target import core_target, kernel_core
from cospipe.backends.tvm.tiling import Core
from cospipe.ir.plan import Replica
from cospipe.ir.soc import Cluster, Soc

_SCALAR_AND_NEON = {"aes", "crc", "flagm", "fp-armv8", "jsconv", "lse", "mops", "neon", "rcpc", "rdm", "sha2", "sha3"}
_NARROW_NUMBERS = {"bf16", "complxnum", "dotprod", "fp16fml", "fullfp16", "i8mm"}
_SCALABLE = {"sve", "sve2", "sve-bitperm"}
_X86 = {"avx", "avx2", "bmi", "bmi2", "f16c", "fma", "lzcnt", "movbe", "popcnt", "sse3", "sse4.1", "sse4.2", "ssse3"}
_X86_512 = {"avx512bw", "avx512cd", "avx512dq", "avx512f", "avx512vl"}
_INSTRUCTIONS = frozenset(_SCALAR_AND_NEON | _NARROW_NUMBERS | _SCALABLE | _X86 | _X86_512)
"""LLVM's features that are instructions compiled code may contain; the others are about speed or the system."""

PARTS_A_THREAD = 16
"""Parts of a kernel for each thread that takes them as it can, as in ``share_by_speed.c``."""


@dataclass(frozen=True)
class ReplicaTarget:
    """What to compile a stage for.

    Parameters
    ----------
    core_type : str
        What LLVM calls the core.
    threads : int
        Threads that share each kernel.
    target : Target
        For LLVM.
    core : Core
        For the kernels' tiles.
    shares_by_speed : bool
        Whether its threads take parts of a kernel as they can, instead of equal ones.
    """

    core_type: str
    threads: int
    target: Target
    core: Core
    shares_by_speed: bool


def replica_target(replica: Replica, soc: Soc, machine: Soc) -> ReplicaTarget:
    """Return what to compile a replica of a stage for.

    Parameters
    ----------
    replica : Replica
        Its cores on the planned chip.
    soc : Soc
        The planned chip.
    machine : Soc
        The chip to compile for: the same, or this host, whose fastest cores are then meant.
    """
    is_planned = machine.name == soc.name
    clusters = [soc.cluster(part.cluster) if is_planned else machine.clusters[0] for part in replica.cores]
    threads = sum(part.cores for part in replica.cores)
    cluster = common_cluster(clusters, machine.architecture)
    core = kernel_core(cluster, min(threads, cluster.cores), machine.architecture)
    target = core_target(cluster, threads, machine.architecture)
    by_speed = len(replica.cores) > 1 and replica.sharing == "by-speed"
    core = replace(core, cores=threads, parts=PARTS_A_THREAD if by_speed else 1)
    return ReplicaTarget(cluster.core_type, threads, target, core, by_speed)


def common_cluster(clusters: Sequence[Cluster], architecture: str) -> Cluster:
    """Return the cluster to compile for when all threads of several clusters run the same code.

    Equal parts take as long as the slowest core needs for one, and slow cores, which execute in order, suffer most from
    code for others: the code is for the slowest core whose instructions all the others have. Where there is none, as
    for the slowest one, but with the instructions that all of them have.
    """
    slowest_first = sorted(clusters, key=lambda c: c.peak_gflops_per_core * c.kernel_efficiency)
    instructions = {cluster.name: _instructions(cluster, architecture) for cluster in clusters}
    common = frozenset.intersection(*instructions.values())
    for cluster in slowest_first:
        if instructions[cluster.name] == common:
            return cluster
    update = {
        "core_type": "generic" if architecture == "aarch64" else "x86-64",
        "features": tuple(f"+{name}" for name in sorted(common)),
        "simd_bytes": min(cluster.simd_bytes for cluster in clusters),
        "simd_registers": min(cluster.simd_registers for cluster in clusters),
    }
    return slowest_first[0].model_copy(update=update)


def _instructions(cluster: Cluster, architecture: str) -> frozenset[str]:
    features = codegen.llvm_get_cpu_features(core_target(cluster, 1, architecture))
    return _INSTRUCTIONS.intersection(map(str, features))
