"""The SoC description of the machine we run on.

A container may hide clocks, capacities or caches. What the machine does not tell is estimated and listed in
``estimated``, as in the file of a board.
"""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from cospipe.ir.bandwidth import copy_rates_gb_per_s
from cospipe.ir.cores import Core, describe_core
from cospipe.ir.errors import SocError
from cospipe.ir.soc import Cluster, Soc
from cospipe.ir.sysfs import HostCpu, read_cpus, read_title

Architecture = Literal["aarch64", "armv7", "x86_64"]

# What uname calls the machine.
ARCHITECTURES: Mapping[str, Architecture] = {"aarch64": "aarch64", "armv7l": "armv7", "x86_64": "x86_64"}

SAME_CLUSTER = 0.95
"""Cores of one type are one cluster when their speeds differ by no more than this: chips of a kind vary so much."""

# Estimates of what neither sysfs nor /proc/cpuinfo tells.
CLOCK_MHZ = 1500.0
L1D_KIB = 32
L2_KIB = 512
# As measured on two equal cores of a server: TVM's pool lost 2 to 9 %, a queue between two threads took 22 to 29 us.
EFFICIENCY_LOSS = 0.1
HAND_OVER_US = 25.0
# Each further core brings less; fully connected layers gain 1.4 from two cores and 1.5 from four on Cortex-A76.
BANDWIDTH_LOSS = 0.5

MEASURED_ON_ONE_CORE = ("memory_bandwidth_gb_per_s", "parallel_efficiency")


def host_soc(
    sysfs: Path = Path("/sys"),
    cpuinfo: Path = Path("/proc/cpuinfo"),
    allowed_cpus: Iterable[int] | None = None,
) -> Soc:
    """Describe this machine.

    Cores are grouped into clusters by type and by ``cpu_capacity`` (by their highest clock where the kernel does
    not tell it); of hardware threads that share a core, one is kept. One core's memory bandwidth is measured.

    Parameters
    ----------
    sysfs, cpuinfo : Path
        Where the kernel's files are; a copy of another machine's describes that one.
    allowed_cpus : iterable of int, optional
        CPUs to describe; those this process may run on when not given.

    Returns
    -------
    Soc
        Named ``host``. Its clusters are called ``cpu`` (a single one), ``big`` and ``little``, or ``prime``,
        ``big`` and ``little``, fastest first.

    Raises
    ------
    SocError
        When nothing can be compiled for this machine, or no CPU is allowed.
    """
    architecture = _architecture()
    cpus = read_cpus(sysfs, cpuinfo, os.sched_getaffinity(0) if allowed_cpus is None else allowed_cpus)
    if not cpus:
        raise SocError("No CPU is allowed, so there is no host to describe; allow at least one.")
    groups = _group(cpus, {cpu.cpu_id: describe_core(architecture, cpu.info) for cpu in cpus})
    rates = copy_rates_gb_per_s(tuple(members[0].cpu_id for _, members in groups))
    described = [
        _describe_cluster(name, core, members, rates[members[0].cpu_id])
        for name, (core, members) in zip(_cluster_names(len(groups)), groups, strict=True)
    ]
    clusters = tuple(cluster for cluster, _ in described)
    return Soc(
        name="host",
        title=read_title(sysfs, cpus[0]),
        architecture=architecture,
        clusters=clusters,
        hand_over_us=HAND_OVER_US,
        hand_over_gb_per_s=min(cluster.memory_bandwidth_gb_per_s[0] for cluster in clusters),
        sources=("sysfs and /proc/cpuinfo of this machine", "memory bandwidth of one core: measured by copying"),
        estimated=("hand_over_us", "hand_over_gb_per_s", *(key for _, keys in described for key in keys)),
    )


def _architecture() -> Architecture:
    machine = platform.machine() if platform.system() == "Linux" else platform.system()
    if machine not in ARCHITECTURES:
        raise SocError(
            f"This machine is {machine!r}; only Linux on {', '.join(ARCHITECTURES)} can be described. "
            "Name a board, or write a TOML file for this machine."
        )
    return ARCHITECTURES[machine]


def _group(cpus: Sequence[HostCpu], cores: Mapping[int, Core]) -> list[tuple[Core, list[HostCpu]]]:
    """Sort CPUs into clusters, fastest first."""
    speeds = _speeds(cpus, cores)
    groups: list[tuple[Core, list[HostCpu]]] = []
    for cpu in sorted(cpus, key=lambda cpu: (-speeds[cpu.cpu_id], cpu.cpu_id)):
        for core, members in groups:
            if core == cores[cpu.cpu_id] and speeds[cpu.cpu_id] >= SAME_CLUSTER * speeds[members[0].cpu_id]:
                members.append(cpu)
                break
        else:
            groups.append((cores[cpu.cpu_id], [cpu]))
    return [(core, sorted(members, key=lambda cpu: cpu.cpu_id)) for core, members in groups]


def _speeds(cpus: Sequence[HostCpu], cores: Mapping[int, Core]) -> dict[int, float]:
    """Return a speed for every CPU; only their ratios mean something."""
    if all(cpu.capacity for cpu in cpus):
        return {cpu.cpu_id: float(cpu.capacity or 0) for cpu in cpus}
    # /proc/cpuinfo's MHz is no help here: it is the clock of the moment, low on an idle core.
    if all(cpu.clock_mhz for cpu in cpus):
        return {cpu.cpu_id: cores[cpu.cpu_id].flop_per_cycle * cpu.clock_mhz[-1] for cpu in cpus}
    return {cpu_id: core.flop_per_cycle for cpu_id, core in cores.items()}


def _cluster_names(count: int) -> list[str]:
    if count == 1:
        return ["cpu"]
    if count == 2:
        return ["big", "little"]
    return ["prime", "big", *(f"big{number}" for number in range(2, count - 1)), "little"]


def _describe_cluster(
    name: str, core: Core, cpus: Sequence[HostCpu], gb_per_s_of_one: float
) -> tuple[Cluster, list[str]]:
    """Return the cluster, and the keys of it that are estimates."""
    told, guessed = _told(core, cpus), _guessed(core, cpus, gb_per_s_of_one)
    values = {
        "core_type": core.core_type,
        "cores": len(cpus),
        "cpu_ids": tuple(cpu.cpu_id for cpu in cpus),
        "simd_bytes": core.simd_bytes,
        "simd_registers": core.simd_registers,
        "features": core.features,
        **guessed,
        **told,
    }
    settled = {*told, *(MEASURED_ON_ONE_CORE if len(cpus) == 1 else ())}
    return Cluster(name=name, **values), [f"clusters.{name}.{key}" for key in guessed if key not in settled]


def _told(core: Core, cpus: Sequence[HostCpu]) -> dict[str, Any]:
    """Return what the machine tells, a measurement of the core type settles, or needs no telling."""
    told: dict[str, Any] = _told_caches(cpus)
    if core.measured:
        told["flop_per_cycle"] = core.flop_per_cycle
    if with_clocks := [cpu for cpu in cpus if cpu.clock_mhz]:
        told["clock_mhz"] = max(with_clocks, key=lambda cpu: cpu.clock_mhz[-1]).clock_mhz
    if all(cpu.capacity for cpu in cpus):
        told["capacity"] = min(max(cpu.capacity or 0 for cpu in cpus), 1024)
    return told


def _told_caches(cpus: Sequence[HostCpu]) -> dict[str, Any]:
    caches = cpus[0].caches
    told: dict[str, Any] = {"l3_kib": caches[3].size_kib if 3 in caches else 0} if caches else {}
    if 1 in caches:
        told["l1d_kib"] = caches[1].size_kib
    if 2 in caches:
        told["l2_kib"] = caches[2].size_kib
        told["l2_shared"] = sum(cpu.cpu_id in caches[2].shared_by for cpu in cpus) > 1
    return told


def _guessed(core: Core, cpus: Sequence[HostCpu], gb_per_s_of_one: float) -> dict[str, Any]:
    """Return an estimate of every key that may have to do without being told."""
    further_cores = range(len(cpus))
    return {
        "clock_mhz": (_clock_of_the_moment(cpus),),
        "flop_per_cycle": core.flop_per_cycle,
        "kernel_efficiency": core.kernel_efficiency,
        "l1d_kib": L1D_KIB,
        "l2_kib": L2_KIB,
        "l2_shared": len(cpus) > 1,
        "l3_kib": 0,
        "memory_bandwidth_gb_per_s": tuple(
            round(gb_per_s_of_one * (1 + n) / (1 + BANDWIDTH_LOSS * n), 2) for n in further_cores
        ),
        "parallel_efficiency": tuple(round(1 / (1 + EFFICIENCY_LOSS * n), 3) for n in further_cores),
    }


def _clock_of_the_moment(cpus: Sequence[HostCpu]) -> float:
    """Return the highest clock in ``/proc/cpuinfo``."""
    numbers = re.findall(r"^\d+(?:\.\d+)?$", "\n".join(cpu.info.get("cpu MHz", "") for cpu in cpus), re.MULTILINE)
    return max(map(float, numbers), default=0.0) or CLOCK_MHZ
