"""This machine described as if its cores were of two types, and plans with replicas on it."""

import os
import platform

from cospipe.ir.plan import CoreConfiguration, Replica
from cospipe.ir.soc import load_soc

OTHER_TYPE = {"x86_64": "x86-64-v2", "aarch64": "cortex-a53"}[platform.machine()]
"""Code for it runs on every machine the tests run on; its vectors may be narrower."""


def two_kinds():
    """Return the host with a cluster ``big`` of one core and a cluster ``little`` of another type and one core."""
    host = load_soc("host")
    cpus = sorted(os.sched_getaffinity(0))
    one = {"cores": 1, "memory_bandwidth_gb_per_s": (8.0,), "parallel_efficiency": (1.0,)}
    big = host.clusters[0].model_copy(update={**one, "name": "big", "cpu_ids": (cpus[0],)})
    narrow = {"core_type": OTHER_TYPE, "simd_bytes": 16, "simd_registers": 16, "flop_per_cycle": 4.0}
    little = big.model_copy(update={**narrow, "name": "little", "cpu_ids": (cpus[-1],)})
    return host.model_copy(update={"clusters": (big, little)})


def spread(soc, sharing="equal"):
    """Return a replica on all cores of both clusters."""
    cores = tuple(CoreConfiguration(cluster.name, cluster.cores) for cluster in soc.clusters)
    cpu_ids = tuple(cpu for cluster in soc.clusters for cpu in cluster.cpu_ids)
    return Replica(cores=cores, cpu_ids=cpu_ids, compute_us=1, sharing=sharing)
