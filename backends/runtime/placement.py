"""Which cores of this machine the stages of a plan really get."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Literal

from cospipe.ir.plan import PipelinePlan


@dataclass(frozen=True)
class StagePlacement:
    """Cores of one stage on the machine that runs it.

    Parameters
    ----------
    cpu_ids : tuple of int
        Cores its threads may run on.
    threads : int
        Threads of its pool.
    kind : str
        ``plan``: the plan's own cores. ``substitute``: as many other cores, its own. ``shared``: too few cores here,
        all stages share them.
    """

    cpu_ids: tuple[int, ...]
    threads: int
    kind: Literal["plan", "substitute", "shared"]


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
    if architecture_matches_soc and all(set(stage.cpu_ids) <= set(cpus) for stage in plan.stages):
        return tuple(StagePlacement(s.cpu_ids, len(s.cpu_ids), "plan") for s in plan.stages)
    wanted = [len(stage.cpu_ids) for stage in plan.stages]
    if sum(wanted) > len(cpus):
        return tuple(StagePlacement(cpus, min(count, len(cpus)), "shared") for count in wanted)
    starts = [sum(wanted[:i]) for i in range(len(wanted))]
    return tuple(
        StagePlacement(cpus[start : start + count], count, "substitute")
        for start, count in zip(starts, wanted, strict=True)
    )
