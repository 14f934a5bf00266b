"""Which cores of this machine the replicas of a plan's stages really get."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Literal

from cospipe.backends.profiling.core_state import ReadText, online_cpus, read_here
from cospipe.ir.plan import PipelinePlan


@dataclass(frozen=True)
class ReplicaPlacement:
    """Cores of one replica of a stage on the machine that runs it.

    Parameters
    ----------
    cpu_ids : tuple of int
        Cores its threads may run on.
    threads : int
        Threads of its pool.
    kind : str
        ``plan``: the plan's own cores. ``substitute``: as many other cores, its own. ``shared``: too few cores here,
        all replicas of all stages share them.
    """

    cpu_ids: tuple[int, ...]
    threads: int
    kind: Literal["plan", "substitute", "shared"]


StagePlacement = tuple[ReplicaPlacement, ...]
"""The placements of a stage's replicas."""


def available_cpus(read: ReadText = read_here) -> tuple[int, ...]:
    """Return the cores this process may use and that are online."""
    allowed = os.sched_getaffinity(0)
    online = online_cpus(read)
    return tuple(sorted(allowed if online is None else allowed & online))


def place(plan: PipelinePlan, architecture_matches_soc: bool, cpus: tuple[int, ...]) -> tuple[StagePlacement, ...]:
    """Place the stages of a plan on the cores of this machine.

    Parameters
    ----------
    plan : PipelinePlan
        Stages with the core ids they were planned for.
    architecture_matches_soc : bool
        False when the plan is of another chip than this machine, so that its core ids mean nothing here.
    cpus : tuple of int
        Cores this process may use.
    """
    replicas = [replica for stage in plan.stages for replica in stage.replicas]
    wanted = [len(replica.cpu_ids) for replica in replicas]
    if architecture_matches_soc and all(set(replica.cpu_ids) <= set(cpus) for replica in replicas):
        placed = [ReplicaPlacement(replica.cpu_ids, len(replica.cpu_ids), "plan") for replica in replicas]
    elif sum(wanted) > len(cpus):
        placed = [ReplicaPlacement(cpus, min(count, len(cpus)), "shared") for count in wanted]
    else:
        ends = list(accumulate(wanted))
        placed = [
            ReplicaPlacement(cpus[end - count : end], count, "substitute")
            for end, count in zip(ends, wanted, strict=True)
        ]
    remaining = iter(placed)
    return tuple(tuple(next(remaining) for _ in stage.replicas) for stage in plan.stages)


def placement_warnings(
    plan: PipelinePlan,
    architecture_matches_soc: bool,
    placements: Sequence[StagePlacement],
    cpus: Sequence[int],
    online: frozenset[int] | None,
) -> list[str]:
    """Return why stages do not run on the plan's cores, and where they do, as sentences; empty when they do.

    Parameters
    ----------
    plan, architecture_matches_soc, cpus
        What :func:`place` was given.
    placements : sequence of tuple of ReplicaPlacement
        What it returned.
    online : frozenset of int or None
        Cores that are switched on; None when nobody knows.
    """
    kind = placements[0][0].kind
    if kind == "plan":
        return []
    if not architecture_matches_soc:
        reasons = [f"The plan's cores are those of {plan.soc}, which this machine is not"]
    else:
        missing = {cpu for stage in plan.stages for cpu in stage.cpu_ids} - set(cpus)
        is_off = set() if online is None else missing - online
        reasons = [f"{cpu_text(is_off)} of the plan is offline, or not there"] if is_off else []
        if forbidden := missing - is_off:
            reasons.append(f"{cpu_text(forbidden)} of the plan may not be used by this process (cpuset or taskset)")
    where = "all stages share" if kind == "shared" else "its stages run on"
    used = {cpu for stage in placements for replica in stage for cpu in replica.cpu_ids}
    return [f"{reason}; {where} {cpu_text(used)} instead." for reason in reasons]


def cpu_text(cpus: Iterable[int]) -> str:
    """Return ``cpu 0, 1, 4``."""
    return f"cpu {', '.join(map(str, sorted(cpus)))}"
