"""Exact search for the best plan of a model graph on a whole chip, with networkx and numpy alone.

A *state* is a cut position together with what the stages so far take of every cluster and accelerator. Labels of
states are relaxed along the cut graph in topological order (:mod:`cospipe.passes.labels`), so the search is exact and
takes polynomial time: positions^2 x usages x groups of options. Stages have every option of
:mod:`cospipe.passes.stage_options`, so that pipelines, copies, kernels over several clusters and mixtures of them
compete in one search.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

import networkx as nx

from cospipe.ir.errors import PlanError, UsageError, several
from cospipe.ir.exploration import Limits
from cospipe.ir.plan import OBJECTIVES
from cospipe.passes.cut_graph import PICOSECONDS_PER_US, Resources
from cospipe.passes.labels import MEMORY
from cospipe.passes.objectives import Solver
from cospipe.passes.plan_costs import Pricing, SearchResult
from cospipe.passes.search_space import search_space
from cospipe.passes.stage_costs import StageCosts
from cospipe.passes.stage_options import Components, Families, Placement, StageOption, stage_options


def search_plan(
    model: nx.DiGraph[str],
    order: Sequence[str],
    resources: Resources,
    objective: str = "throughput",
    limits: Limits | None = None,
    families: Families | None = None,
) -> SearchResult:
    """Find the best plan of a model graph.

    ``throughput`` minimises (period, latency, energy, stages), ``latency`` (latency, period, energy, stages),
    ``energy`` (energy of the whole board for one frame, period, latency, stages), lexicographically and exactly.

    * The period is the longest one of a stage, the latency the sum over the stages, of the slowest replica each.
    * A stage takes the sum of its units and, unless it is the first, the hand-over: a fixed cost and the bytes of the
      distinct values it reads from outside. Values that only pass by cost nothing.
    * Everything takes longer by ``resources.contention`` for each cluster and accelerator beyond the first that is at
      work, unless one replica does everything.

    Parameters
    ----------
    model : networkx.DiGraph
        A model graph (see :func:`cospipe.passes.model_graph.model_graph`).
    order : sequence of str
        The units in a topological order; stages are runs of it.
    resources : Resources
        What there is, and what it costs.
    objective : str
        One of :data:`cospipe.ir.plan.OBJECTIVES`.
    limits : Limits, optional
        What the plan must keep to.
    families : Families, optional
        Kinds of stages it may have; all when not given.

    Returns
    -------
    SearchResult
        Stages in the order they run, together using no more than there is.

    Raises
    ------
    UsageError
        When the objective is unknown, or no core may be used.
    PlanError
        When there is nothing to run, times are negative, not finite or too large to count in picoseconds, or no
        plan keeps to the limits; the message says which one binds.
    """
    started = time.perf_counter()
    check_objective(objective)
    _check_resources(resources)
    if not order:
        raise PlanError("There is nothing to run: the model graph has no units.")
    options = stage_options(Components(resources.cores, resources.accelerators), families or Families())
    costs = StageCosts(model, order, resources, options)
    pricing = Pricing(costs, search_space(resources, options), resources, objective, limits or Limits())
    solver = Solver(pricing)
    best = solver.best()
    if best is None:
        raise PlanError(_why_none(pricing))
    transitions = (solver.relaxations + 1) * pricing.transitions() + len(options)
    return pricing.result(best, transitions, time.perf_counter() - started)


def check_objective(objective: str) -> None:
    """Check the name of an objective.

    Raises
    ------
    UsageError
        When it is unknown.
    """
    if objective not in OBJECTIVES:
        raise UsageError(f"There is no objective {objective!r}; choose {', '.join(OBJECTIVES[:-1])} or energy.")


def _check_resources(resources: Resources) -> None:
    if not resources.configurations():
        raise UsageError("A pipeline needs at least one core; allow at least one.")
    if resources.max_stages < 0:
        raise UsageError(f"max_stages must be 0 (no limit) or more, not {resources.max_stages}.")


def evaluate_plan(
    model: nx.DiGraph[str], order: Sequence[str], resources: Resources, stages: Sequence[tuple[int, int, Placement]]
) -> SearchResult:
    """Return what a given plan costs, by the definitions of :func:`search_plan`; nothing is searched.

    Parameters
    ----------
    model, order, resources
        As for :func:`search_plan`.
    stages : sequence of (start, stop, placement)
        Stages of one replica each, that cover the order.
    """
    started = time.perf_counter()
    options = tuple(StageOption(((placement, 1),)) for placement in dict.fromkeys(p for _, _, p in stages))
    costs = StageCosts(model, order, resources, options)
    pricing = Pricing(costs, search_space(resources, options), resources, "throughput", Limits())
    steps = [(start, stop, options.index(StageOption(((placement, 1),)))) for start, stop, placement in stages]
    components = {cores.cluster for _, _, placement in stages for cores in placement.cores}
    permille = resources.contention_permille(len(components)) if len(stages) > 1 else 1000
    return pricing.result(pricing.costs_of(steps, permille), 0, time.perf_counter() - started)


def _why_none(pricing: Pricing) -> str:
    """Say which limit binds: what the least of each is when the others are dropped."""
    problems = [
        f"{name}: {wanted / scale:g} {unit} wanted, no plan has less than {least / scale:.4g} {unit}"
        for name, unit, scale, wanted, least in _least_of_each(pricing)
        if wanted is not None and least > wanted
    ]
    if problems:
        return several("No plan keeps to these limits", problems)
    return "No plan keeps to all limits at once, though one keeps to each alone; allow more of one of them."


def _least_of_each(pricing: Pricing) -> list[tuple[str, str, float, float | None, float]]:
    wanted = pricing.wanted
    free = replace(pricing, objective="latency", wanted=Limits())
    shortest = Solver(free).best()
    assert shortest is not None
    single = [[(0, pricing.costs.positions - 1, number)] for number in range(len(pricing.costs.options))]
    memory = min(Solver(free).least(MEMORY), *(pricing.sum_of(MEMORY, steps) for steps in single))
    power_mw = min(pricing.power_mw(steps) for steps in single)
    return [
        ("latency", "ms", 1e3, wanted.latency_us, shortest.key[0] / PICOSECONDS_PER_US / 1000),
        ("power", "W", 1e3, wanted.power_mw, power_mw),
        ("memory", "MB", 1e6, wanted.memory_bytes, memory),
    ]
