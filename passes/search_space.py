"""The states of the search: which cores and accelerators are taken, and what each option takes more of them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cospipe.passes.cut_graph import Integers, Resources
from cospipe.passes.stage_options import StageOption


@dataclass(frozen=True)
class SearchSpace:
    """Usages (how much of everything the stages so far take), and groups of options that take the same.

    Parameters
    ----------
    usages : tuple
        Cores of each cluster, each accelerator (0 or 1) and, where stages are limited, stages.
    sources : ndarray of shape (groups, usages)
        Number of the usage before a stage of a group; one past the last where that is impossible.
    group : ndarray of shape (options,)
        Group of each option.
    by_group : ndarray of shape (options,)
        Options sorted by group, and ``starts``, where each group begins in it.
    components : ndarray of shape (usages,)
        How many clusters and accelerators are at work; one that only drives an accelerator does not count.
    """

    usages: tuple[tuple[int, ...], ...]
    sources: Integers
    group: Integers
    by_group: Integers
    starts: Integers
    components: Integers
    power_mw: npt.NDArray[np.float64]


def search_space(resources: Resources, options: Sequence[StageOption]) -> SearchSpace:
    """Build the states for what there is and what stages may occupy."""
    names = (*resources.cores, *resources.accelerators)
    limits = (*resources.cores.values(), *(1 for _ in resources.accelerators))
    demands = [_row(option.demand(resources.accelerators), names) for option in options]
    if resources.max_stages:
        # A limit on stages is one more thing to use up: each stage takes one.
        limits = (*limits, resources.max_stages)
        demands = [(*demand, 1) for demand in demands]
    distinct = list(dict.fromkeys(demands))
    usages = tuple(itertools.product(*(range(limit + 1) for limit in limits)))
    number = {usage: index for index, usage in enumerate(usages)}
    rows = [[number.get(_minus(usage, demand), len(usages)) for usage in usages] for demand in distinct]
    group = np.array([distinct.index(demand) for demand in demands], dtype=np.int64)
    by_group = np.argsort(group, kind="stable")
    return SearchSpace(
        usages=usages,
        sources=np.array(rows, dtype=np.int64),
        group=group,
        by_group=by_group,
        starts=np.searchsorted(group[by_group], np.arange(len(distinct))),
        components=np.array([_components(usage, names, resources) for usage in usages], dtype=np.int64),
        power_mw=np.array([_power_mw(usage, names, resources) for usage in usages]),
    )


def _row(demand: dict[str, int], names: Sequence[str]) -> tuple[int, ...]:
    return tuple(demand.get(name, 0) for name in names)


def _minus(usage: tuple[int, ...], demand: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(used - needed for used, needed in zip(usage, demand, strict=True))


def _components(usage: tuple[int, ...], names: Sequence[str], resources: Resources) -> int:
    used = dict(zip(names, usage, strict=False))
    for accelerator, host in resources.accelerators.items():
        if host and used[accelerator]:
            used[host] -= 1
    return sum(count > 0 for count in used.values())


def _power_mw(usage: tuple[int, ...], names: Sequence[str], resources: Resources) -> float:
    busy = sum(resources.power_mw.get(name, 0.0) * used for name, used in zip(names, usage, strict=False))
    return resources.idle_power_mw + busy
