"""Every pipeline, one by one: the yardstick that tests and benchmarks hold the search against.

Written from the definition of a pipeline's time with exact fractions; shares no code with the search.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from itertools import combinations
from typing import NamedTuple

import networkx as nx

from cospipe.ir.plan import CoreConfiguration
from cospipe.passes.cut_graph import Resources


class Costs(NamedTuple):
    """What two pipelines are compared by."""

    longest_us: Fraction
    total_us: Fraction
    stages: int


Stage = tuple[int, int, CoreConfiguration]
"""Units ``start`` to ``stop - 1`` of the order, on these cores."""


def best_costs(model: nx.DiGraph[str], order: Sequence[str], resources: Resources, objective: str) -> Costs:
    """Return the costs of the best pipeline, found by weighing all of them.

    Parameters are those of :func:`cospipe.passes.search.search_pipeline`; the time grows exponentially with units
    and cores.
    """
    times_us = {
        (start, stop, configuration): stage_us(model, order, resources, (start, stop, configuration))
        for start, stop in combinations(range(len(order) + 1), 2)
        for configuration in resources.configurations()
    }
    pipelines = all_pipelines(len(order), resources.cores, resources.max_stages or len(order))
    costs = (pipeline_costs([times_us[stage] for stage in pipeline]) for pipeline in pipelines)
    if objective == "latency":
        return min(costs, key=lambda cost: (cost.total_us, cost.longest_us, cost.stages))
    return min(costs)


def all_pipelines(
    units: int, cores: Mapping[str, int], most_stages: int, start: int = 0
) -> Iterator[tuple[Stage, ...]]:
    """Yield every way to cut the units from ``start`` on into stages (start, stop, cores) that fit side by side."""
    if start == units:
        yield ()
    if start == units or most_stages == 0:
        return
    for cluster, free in cores.items():
        for used in range(1, free + 1):
            left = {**cores, cluster: free - used}
            for stop in range(start + 1, units + 1):
                for rest in all_pipelines(units, left, most_stages - 1, stop):
                    yield ((start, stop, CoreConfiguration(cluster, used)), *rest)


def pipeline_costs(times_us: Sequence[Fraction]) -> Costs:
    """Return the costs of a pipeline whose stages take so long."""
    return Costs(max(times_us), sum(times_us, start=Fraction(0)), len(times_us))


def stage_us(model: nx.DiGraph[str], order: Sequence[str], resources: Resources, stage: Stage) -> Fraction:
    """Return the exact time of one stage: its units, and what it reads from outside unless it is the first."""
    start, stop, configuration = stage
    units = order[start:stop]
    compute_us = sum((Fraction(model.nodes[unit]["time_us"][configuration]) for unit in units), start=Fraction(0))
    return compute_us + _hand_over_us(model, set(units), resources) if start else compute_us


def _hand_over_us(model: nx.DiGraph[str], units: set[str], resources: Resources) -> Fraction:
    read: dict[tuple[str, str], int] = {}
    for producer, reader, edge in model.edges(data=True):
        if reader in units and producer not in units:
            read.update({(producer, name): size for name, size in edge["values"].items()})
    per_byte_us = 1 / (Fraction(resources.hand_over_gb_per_s) * 1000)
    return Fraction(resources.hand_over_us) + sum(read.values()) * per_byte_us
