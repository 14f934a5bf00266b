"""What is known of a core from LLVM's name of it: from the descriptions of chips, and from its instructions."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from tvm.target import Target, codegen

from cospipe.backends.tvm.replica_target import ReplicaTarget
from cospipe.backends.tvm.target import core_target, kernel_core
from cospipe.ir.cores import KNOWN_CORES, UNKNOWN_ARM_CORE, X86_LEVELS, Core
from cospipe.ir.soc import Cluster, Soc, load_soc, soc_names

_FEATURES_OF_WIDE_X86 = (
    ({"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}, X86_LEVELS[0].core),
    ({"avx2", "fma"}, X86_LEVELS[1].core),
)
_CORES_OF_UNKNOWN_CHIP = 4
"""As a cluster of most big.LITTLE chips has."""


@cache
def host_cores() -> ReplicaTarget:
    """Return the target of this machine's fastest cores, all of them."""
    soc = load_soc("host")
    cluster = soc.clusters[0]
    target = core_target(cluster, cluster.cores, soc.architecture)
    core = kernel_core(cluster, cluster.cores, soc.architecture)
    return ReplicaTarget(cluster.core_type, cluster.cores, target, core, shares_by_speed=False)


def cluster_of(core_type: str, features: Sequence[str], architecture: str) -> Cluster:
    """Return a cluster of cores of a type.

    Its caches and memory are those of a described chip with such cores, of several chips the one with the smallest
    level-2 cache; where no chip is described, those of a typical core.

    Parameters
    ----------
    core_type : str
        What LLVM calls it.
    features : sequence of str
        LLVM's features beyond those of the type.
    architecture : str
        ``aarch64`` or ``x86_64``.
    """
    described = [cluster for soc in _socs(architecture) for cluster in soc.clusters if cluster.core_type == core_type]
    if described:
        smallest = min(described, key=lambda cluster: cluster.l2_kib / (cluster.cores if cluster.l2_shared else 1))
        return smallest.model_copy(update={"features": tuple(features)})
    return _typical(core_type, features, architecture)


@cache
def _socs(architecture: str) -> tuple[Soc, ...]:
    socs = [load_soc(name) for name in soc_names()]
    return tuple(soc for soc in socs if soc.architecture == architecture)


def _typical(core_type: str, features: Sequence[str], architecture: str) -> Cluster:
    if architecture == "x86_64":
        core = _x86_core(core_type, features)
        vector, flop_per_cycle = (core.simd_bytes, core.simd_registers), core.flop_per_cycle
    else:
        vector, flop_per_cycle = (16, 32), KNOWN_CORES.get(core_type, UNKNOWN_ARM_CORE)[0]
    return Cluster(
        name="cores",
        core_type=core_type,
        cores=_CORES_OF_UNKNOWN_CHIP,
        cpu_ids=tuple(range(_CORES_OF_UNKNOWN_CHIP)),
        clock_mhz=(2000.0,),
        simd_bytes=vector[0],
        simd_registers=vector[1],
        flop_per_cycle=flop_per_cycle,
        features=tuple(features),
        l1d_kib=32,
        l2_kib=512,
        l2_shared=False,
        memory_bandwidth_gb_per_s=(8.0,) * _CORES_OF_UNKNOWN_CHIP,
        parallel_efficiency=(1.0,) * _CORES_OF_UNKNOWN_CHIP,
    )


def _x86_core(core_type: str, features: Sequence[str]) -> Core:
    target = Target({"kind": "llvm", "mtriple": "x86_64-linux-gnu", "mcpu": core_type, "mattr": list(features)})
    found = set(map(str, codegen.llvm_get_cpu_features(target)))
    return next((core for wanted, core in _FEATURES_OF_WIDE_X86 if wanted <= found), X86_LEVELS[-1].core)
