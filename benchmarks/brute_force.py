"""Every plan, one by one: the yardstick that tests and benchmarks hold the search against.

Written from the definition of a plan's costs with exact fractions; shares no code with the search.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from itertools import product
from typing import NamedTuple

import networkx as nx

from cospipe.ir.exploration import Limits
from cospipe.ir.plan import CoreConfiguration
from cospipe.passes.cut_graph import Resources

Cores = tuple[tuple[str, int], ...]
"""What one replica occupies: cores of each cluster, or one of an accelerator."""


class Replica(NamedTuple):
    """One copy of a stage; ``by_speed`` tells how several clusters share its kernels."""

    cores: Cores
    by_speed: bool = False


class BruteStage(NamedTuple):
    """Units ``start`` to ``stop - 1`` of the order, and the replicas that run them."""

    start: int
    stop: int
    replicas: tuple[Replica, ...]


class Costs(NamedTuple):
    """What two plans are compared by, and what is limited."""

    period_us: Fraction
    latency_us: Fraction
    energy_nj: Fraction
    stages: int
    power_mw: Fraction
    memory_bytes: int


def best_costs(
    model: nx.DiGraph[str],
    order: Sequence[str],
    resources: Resources,
    objective: str,
    limits: Limits | None = None,
    plain: bool = False,
) -> Costs | None:
    """Return the costs of the best plan, found by weighing all of them; None when none keeps to the limits.

    Parameters are those of :func:`cospipe.passes.search.search_plan`; ``plain`` weighs only stages with one replica
    on CPU cores of one cluster. The time grows exponentially with units and cores.
    """
    costs = [plan_costs(model, order, resources, plan) for plan in all_plans(len(order), resources, plain)]
    kept = [cost for cost in costs if _keeps(cost, limits or Limits())]
    return min(kept, key=lambda cost: objective_key(cost, objective), default=None)


def objective_key(cost: Costs, objective: str) -> tuple[Fraction | int, ...]:
    """Return what plans are ordered by."""
    if objective == "latency":
        return cost.latency_us, cost.period_us, cost.energy_nj, cost.stages
    if objective == "energy":
        return cost.energy_nj, cost.period_us, cost.latency_us, cost.stages
    return cost.period_us, cost.latency_us, cost.energy_nj, cost.stages


def _keeps(cost: Costs, limits: Limits) -> bool:
    return (
        (limits.latency_us is None or cost.latency_us <= Fraction(limits.latency_us))
        and (limits.power_mw is None or cost.power_mw <= Fraction(limits.power_mw))
        and (limits.memory_bytes is None or cost.memory_bytes <= limits.memory_bytes)
    )


def all_plans(units: int, resources: Resources, plain: bool = False) -> Iterator[tuple[BruteStage, ...]]:
    """Yield every plan: stages that cover all units, each with replicas that fit beside those of the others."""
    free = {**resources.cores, **dict.fromkeys(resources.accelerators, 1)}
    most = resources.max_stages or units
    options = list(_options(resources, plain))
    yield from _plans(units, resources, options, free, most, 0)
    if not plain:
        for replicas in _independent(resources, options):
            if _left(free, replicas, resources) is not None:
                yield (BruteStage(0, units, replicas),)


def _plans(
    units: int,
    resources: Resources,
    options: Sequence[tuple[Replica, ...]],
    free: Mapping[str, int],
    most_stages: int,
    start: int,
) -> Iterator[tuple[BruteStage, ...]]:
    if start == units:
        yield ()
    if start == units or most_stages == 0:
        return
    for replicas in options:
        left = _left(free, replicas, resources)
        if left is None:
            continue
        for stop in range(start + 1, units + 1):
            for rest in _plans(units, resources, options, left, most_stages - 1, stop):
                yield (BruteStage(start, stop, replicas), *rest)


def _left(free: Mapping[str, int], replicas: Sequence[Replica], resources: Resources) -> dict[str, int] | None:
    left = dict(free)
    for replica in replicas:
        for name, cores in replica.cores:
            left[name] -= cores
            host = resources.accelerators.get(name)
            if host:
                left[host] -= 1
    return left if min(left.values()) >= 0 else None


def _options(resources: Resources, plain: bool) -> Iterator[tuple[Replica, ...]]:
    """Yield what a stage may occupy: in each cluster none or some replicas of equal size; or one spread replica."""
    clusters = list(resources.cores.items())
    ways = [[(0, 0), *((size, n) for size in range(1, c + 1) for n in range(1, c // size + 1))] for _, c in clusters]
    for chosen in product(*ways):
        replicas = [
            Replica(((name, size),)) for (name, _), (size, n) in zip(clusters, chosen, strict=True) for _ in range(n)
        ]
        if len(replicas) == 1 or (replicas and not plain):
            yield tuple(replicas)
    if plain:
        return
    for counts in product(*(range(cores + 1) for _, cores in clusters)):
        cores = tuple((name, count) for (name, _), count in zip(clusters, counts, strict=True) if count)
        if len(cores) > 1:
            yield (Replica(cores),)
            yield (Replica(cores, by_speed=True),)
    for name in resources.accelerators:
        yield (Replica(((name, 1),)),)


def _independent(resources: Resources, options: Sequence[tuple[Replica, ...]]) -> Iterator[tuple[Replica, ...]]:
    """Yield independent frames on CPU cores and some accelerators, or on several accelerators."""
    names = list(resources.accelerators)
    cpus = [o for o in options if all(len(r.cores) == 1 and r.cores[0][0] in resources.cores for r in o)]
    for picked in product((False, True), repeat=len(names)):
        added = tuple(Replica(((name, 1),)) for name, use in zip(names, picked, strict=True) if use)
        if len(added) > 1:
            yield added
        if added:
            yield from ((*option, *added) for option in cpus)


def plan_costs(model: nx.DiGraph[str], order: Sequence[str], resources: Resources, plan: Sequence[BruteStage]) -> Costs:
    """Return the costs of a plan by their definition."""
    replicas = [replica for stage in plan for replica in stage.replicas]
    components = {name for replica in replicas for name, _ in replica.cores}
    share = Fraction(round(1000 * resources.contention), 1000)
    factor = 1 + share * (len(components) - 1) if len(replicas) > 1 else Fraction(1)
    period_us, latency_us, energy_nj, power_mw, memory = Fraction(0), Fraction(0), Fraction(0), Fraction(0), 0
    key = "time_us" if len(replicas) == 1 else "crowded_us"
    for stage in plan:
        times_us = [replica_us(model, order, resources, stage, replica, key) for replica in stage.replicas]
        stage_period_us = 0 if min(times_us) == 0 else 1 / sum(1 / time_us for time_us in times_us)
        stage_power_mw = sum(_power_mw(replica, resources) for replica in stage.replicas)
        period_us, latency_us = max(period_us, Fraction(stage_period_us)), latency_us + max(times_us)
        energy_nj += stage_period_us * stage_power_mw
        power_mw += stage_power_mw
        memory += _memory(model, order[stage.start : stage.stop]) * len(stage.replicas)
    idle_mw = Fraction(resources.idle_power_mw)
    return Costs(
        factor * period_us,
        factor * latency_us,
        factor * (energy_nj + idle_mw * period_us),
        len(plan),
        power_mw + idle_mw,
        memory,
    )


def replica_us(
    model: nx.DiGraph[str],
    order: Sequence[str],
    resources: Resources,
    stage: BruteStage,
    replica: Replica,
    key: str = "time_us",
) -> Fraction:
    """Return the exact time of one replica: its units, and what it reads from outside unless its stage is the first."""
    units = order[stage.start : stage.stop]
    tables = [model.nodes[unit].get(key, model.nodes[unit]["time_us"]) for unit in units]
    compute_us = sum((_unit_us(table, replica, resources) for table in tables), start=Fraction(0))
    transfer_us = sum(Fraction(resources.transfer_us.get(name, 0)) for name, _ in replica.cores)
    return compute_us + transfer_us + (_hand_over_us(model, set(units), resources) if stage.start else 0)


def _unit_us(table: Mapping[CoreConfiguration, float], replica: Replica, resources: Resources) -> Fraction:
    parts = [(cores, Fraction(table[CoreConfiguration(name, cores)])) for name, cores in replica.cores]
    if len(parts) == 1:
        return parts[0][1]
    cost = 1 + Fraction(resources.spread_cost)
    if not replica.by_speed:
        total = sum(cores for cores, _ in parts)
        return cost * max(time_us * cores / total for cores, time_us in parts)
    if min(time_us for _, time_us in parts) == 0:
        return Fraction(0)
    return cost / sum(1 / time_us for _, time_us in parts)


def _power_mw(replica: Replica, resources: Resources) -> Fraction:
    power_mw = Fraction(0)
    for name, cores in replica.cores:
        power_mw += Fraction(resources.power_mw.get(name, 0.0)) * cores
        host = resources.accelerators.get(name)
        power_mw += Fraction(resources.power_mw.get(host, 0.0)) if host else 0
    return power_mw


def _memory(model: nx.DiGraph[str], units: Sequence[str]) -> int:
    weights = sum(model.nodes[unit].get("weight_bytes", 0) for unit in units)
    return int(weights + max(model.nodes[unit].get("tensor_bytes", 0) for unit in units))


def _hand_over_us(model: nx.DiGraph[str], units: set[str], resources: Resources) -> Fraction:
    read: dict[tuple[str, str], int] = {}
    for producer, reader, edge in model.edges(data=True):
        if reader in units and producer not in units:
            read.update({(producer, name): size for name, size in edge["values"].items()})
    per_byte_us = 1 / (Fraction(resources.hand_over_gb_per_s) * 1000)
    return Fraction(resources.hand_over_us) + sum(read.values()) * per_byte_us
