"""Which cores of this machine the replicas of a plan's stages really get."""

from __future__ import annotations

import os
from dataclasses import dataclass
from itertools import accumulate
from typing import Literal

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


def available_cpus() -> tuple[int, ...]:
    """Return the cores this process may use."""
    return tuple(sorted(os.sched_getaffinity(0)))


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
