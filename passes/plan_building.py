"""From what the search found to a :class:`~cospipe.ir.plan.PipelinePlan`: which nodes, which cpu ids, and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import networkx as nx
from torch import fx

from cospipe.ir.plan import PipelinePlan, Replica, SearchReport, StagePlan
from cospipe.ir.soc import Soc
from cospipe.passes.cut_graph import Resources
from cospipe.passes.plan_costs import SearchResult, Stage
from cospipe.passes.resources import knows_power
from cospipe.passes.stage_options import Placement

_MOST_OF_THE_PERIOD = 0.9
"""A layer that takes more than this part of the longest stage is named as what limits the period."""


def build_plan(
    graph: fx.Graph,
    model: nx.DiGraph[str],
    order: Sequence[str],
    soc: Soc,
    resources: Resources,
    objective: str,
    found: SearchResult,
    clock_mhz: Mapping[str, float] | None = None,
) -> PipelinePlan:
    """Return the plan that a search found.

    Parameters
    ----------
    graph : fx.Graph
        The graph that ``model`` was built from.
    model, order, resources, objective
        What :func:`cospipe.passes.search.search_plan` was given.
    soc : Soc
        The chip.
    found : SearchResult
        What it returned.
    clock_mhz : mapping of str to float, optional
        Clock of each cluster, where it is not the highest.
    """
    limited_by = _limited_by(objective, model, order, found, resources)
    has_energy = knows_power(soc) and all(
        c.cluster in resources.power_mw for stage in found.stages for p in stage.placements for c in p.cores
    )
    return PipelinePlan(
        soc=soc.name,
        objective=objective,
        stages=_stage_plans(graph, model, order, found, soc),
        single_stage_us=_single_stage_us(model, order, soc),
        contention=found.contention,
        clock_mhz=dict(clock_mhz or {}),
        energy_mj=found.energy_pj / 1e9 if has_energy else None,
        power_mw=found.power_mw if has_energy else None,
        memory_bytes=found.memory_bytes,
        search=SearchReport(
            positions=found.positions,
            states=found.states,
            transitions=found.transitions,
            seconds=found.seconds,
            limited_by=limited_by,
        ),
    )


def _stage_plans(
    graph: fx.Graph, model: nx.DiGraph[str], order: Sequence[str], found: SearchResult, soc: Soc
) -> tuple[StagePlan, ...]:
    number = {node.name: index for index, node in enumerate(graph.nodes)}
    free = {cluster.name: list(cluster.cpu_ids) for cluster in soc.clusters}
    plans = []
    for index, stage in enumerate(found.stages):
        nodes = [node for unit in order[stage.start : stage.stop] for node in model.nodes[unit]["nodes"]]
        plan = StagePlan(
            name=f"stage{index}",
            replicas=tuple(
                _replica(placement, compute_us, free)
                for placement, compute_us in zip(stage.placements, stage.compute_us, strict=True)
            ),
            nodes=tuple(sorted(nodes, key=number.__getitem__)),
            hand_over_us=stage.hand_over_us,
            hand_over_bytes=stage.hand_over_bytes,
        )
        plans.append(plan)
    return tuple(plans)


def _replica(placement: Placement, compute_us: float, free: Mapping[str, list[int]]) -> Replica:
    on_cpu = [cores for cores in placement.cores if cores.cluster in free]
    cpu_ids = tuple(free[cores.cluster].pop(0) for cores in on_cpu for _ in range(cores.cores))
    return Replica(cores=placement.cores, cpu_ids=cpu_ids, compute_us=compute_us, sharing=placement.sharing)


def _single_stage_us(model: nx.DiGraph[str], order: Sequence[str], soc: Soc) -> dict[str, float]:
    return {
        str(configuration): sum(model.nodes[unit]["time_us"][configuration] for unit in order)
        for configuration in soc.configurations()
    }


def _limited_by(
    objective: str, model: nx.DiGraph[str], order: Sequence[str], found: SearchResult, resources: Resources
) -> str:
    """Say why no plan is better. That it is the best is proved by the search; this only names the reason."""
    index = max(range(len(found.stages)), key=lambda number: _period_us(found.stages[number]))
    longest = found.stages[index]
    where = f"stage{index} on {_text(longest)}"
    idle = sum(resources.cores.values()) - sum(_cores(stage, resources) for stage in found.stages)
    if objective == "latency" and len(found.stages) == 1:
        return f"the objective is latency: no cut makes one input faster than {_text(longest)} does alone"
    if objective != "throughput":
        return f"the objective is {objective}: the period is that of {where}, even if another plan would shorten it"
    if layer := _dominant_layer(model, order, longest):
        name, share = layer
        return f"one layer, {name}, takes {100 * share:.0f} % of the period on {_text(longest)} and cannot be cut"
    if len(found.stages) == resources.max_stages:
        return f"no more than {resources.max_stages} stage(s) are allowed; the longest is {where}"
    if not idle:
        return f"all {sum(resources.cores.values())} cores are used; the longest stage is {where}"
    return f"{idle} core(s) stay idle: with them no plan has a shorter longest stage than {where}"


def _dominant_layer(model: nx.DiGraph[str], order: Sequence[str], stage: Stage) -> tuple[str, float] | None:
    """Return the layer that takes most of a stage of one replica on one cluster, and its share; None for others."""
    placement = stage.placements[0]
    if len(stage.placements) > 1 or placement.is_spread:
        return None
    layers_us = {unit: model.nodes[unit]["time_us"][placement.cores[0]] for unit in order[stage.start : stage.stop]}
    layer = max(layers_us, key=layers_us.__getitem__)
    period_us = _period_us(stage)
    return (layer, layers_us[layer] / period_us) if layers_us[layer] > _MOST_OF_THE_PERIOD * period_us else None


def _period_us(stage: Stage) -> float:
    times_us = [time_us + stage.hand_over_us for time_us in stage.compute_us]
    return 0.0 if min(times_us) == 0 else 1 / sum(1 / time_us for time_us in times_us)


def _cores(stage: Stage, resources: Resources) -> int:
    demand = stage.option.demand(resources.accelerators)
    return sum(cores for name, cores in demand.items() if name in resources.cores)


def _text(stage: Stage) -> str:
    texts = [f"{count}x " * (count > 1) + "+".join(map(str, p.cores)) for p, count in stage.option.replicas]
    return ", ".join(texts)
