"""Exploration of a whole chip: the plan to take, the best of every kind, what others would do, the Pareto front."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import networkx as nx
import numpy as np
from torch import fx

from cospipe.ir.errors import PlanError
from cospipe.ir.exploration import Exploration, Limits, Option
from cospipe.ir.plan import PipelinePlan
from cospipe.ir.plan_support import cannot_run
from cospipe.ir.soc import Soc
from cospipe.passes.baselines import baselines
from cospipe.passes.clock_levels import at_clocks, clock_combinations
from cospipe.passes.cut_graph import Resources
from cospipe.passes.model_graph import cheap_order, check_annotated, model_graph
from cospipe.passes.partition import RUNNABLE, check_power_known
from cospipe.passes.period_bound import period_bound_us
from cospipe.passes.plan_building import build_plan
from cospipe.passes.resources import chip_resources, knows_power
from cospipe.passes.search import evaluate_plan, search_plan
from cospipe.passes.stage_options import Families

Progress = Callable[[str], None]

_LATENCIES_OF_THE_FRONT = 6
"""Latency limits for which the front has the plan with the shortest period, between the least and that of the best."""
_CLOCKS_OF_THE_FRONT = 24
"""Most combinations of clocks that the front has plans for."""
_EQUAL = 1e-9
"""Relative difference that is rounding."""


@dataclass(frozen=True)
class Question:
    """What is explored.

    Parameters
    ----------
    soc : Soc
        The chip, for which the graph's latencies were predicted.
    objective : str
        One of :data:`cospipe.ir.plan.OBJECTIVES`.
    limits : Limits
        What the chosen plan keeps to.
    cores : str
        Cores that may be used, as for :class:`~cospipe.passes.partition.Partition`.
    max_stages : int
        Most stages; 0 for no limit but the cores.
    """

    soc: Soc
    objective: str = "throughput"
    limits: Limits = field(default_factory=Limits)
    cores: str = ""
    max_stages: int = 0


def explore(graph: fx.Graph, question: Question, name: str, progress: Progress = lambda _: None) -> Exploration:
    """Explore how an annotated graph can run on a chip.

    Parameters
    ----------
    graph : fx.Graph
        With layers and latencies annotated.
    question : Question
        Chip, objective and limits.
    name : str
        What the network is called.
    progress : callable
        Is told in a few words what is done next.

    Raises
    ------
    PassError
        When the graph lacks annotations.
    UsageError
        When objective or cores are wrong, or energy or power is asked for and not known.
    PlanError
        When no plan that can run keeps to the limits; the message says which binds.
    """
    check_annotated(graph)
    check_power_known(question.soc, question.objective, question.limits.power_mw or 0.0)
    chip = _Chip(graph, question)
    progress("Searching the best plan")
    chosen = chip.best(RUNNABLE, progress)
    progress("Searching the best plan of each kind")
    kinds = tuple(chip.kinds())
    progress("Weighing what others would do")
    others = tuple(chip.baselines())
    progress("Tracing the Pareto front")
    front = tuple(_front([chosen, *chip.front(progress)]))
    return Exploration(
        model=name,
        soc=question.soc.name,
        objective=question.objective,
        limits=question.limits,
        chosen=chosen,
        kinds=kinds,
        baselines=others,
        front=front,
        reasons=tuple(chip.reasons(chosen, kinds, others)),
    )


class _Chip:
    """A model graph on a chip, ready to be searched at any clocks."""

    def __init__(self, graph: fx.Graph, question: Question) -> None:
        self.graph, self.question, self.soc = graph, question, question.soc
        self.model = model_graph(graph)
        self.order = cheap_order(self.model)
        self.resources = self._resources({}, accelerators=False)

    def _resources(self, clock_mhz: Mapping[str, float], accelerators: bool) -> Resources:
        wanted = self.question
        return chip_resources(self.soc, wanted.cores, wanted.max_stages, accelerators, clock_mhz)

    def plan(
        self,
        families: Families,
        limits: Limits,
        objective: str = "",
        clock_mhz: Mapping[str, float] | None = None,
        max_stages: int | None = None,
    ) -> PipelinePlan:
        """Return the best plan of some families at some clocks; PlanError when none keeps to the limits."""
        objective, clocks = objective or self.question.objective, dict(clock_mhz or {})
        resources = self._resources(clocks, families.accelerators)
        if max_stages is not None:
            resources = replace(resources, max_stages=max_stages)
        model = self._at(clocks)
        found = search_plan(model, self.order, resources, objective, limits, families)
        return build_plan(self.graph, model, self.order, self.soc, resources, objective, found, clocks)

    def _at(self, clock_mhz: Mapping[str, float]) -> nx.DiGraph[str]:
        return at_clocks(self.model, self.soc, clock_mhz) if clock_mhz else self.model

    def best(self, families: Families, progress: Progress) -> PipelinePlan:
        """Return the best plan over all clocks that may matter.

        Lower clocks make no plan quicker: they are weighed for energy, and where power is limited.
        """
        wanted = self.question
        if wanted.objective != "energy" and wanted.limits.power_mw is None:
            return self.plan(families, wanted.limits)
        plans, problem = list[PipelinePlan](), PlanError("There is nothing to choose from.")
        combinations = self.clocks()
        for number, clocks in enumerate(combinations, start=1):
            progress(f"Searching the best plan, clocks {number} of {len(combinations)}")
            try:
                plans.append(self.plan(families, wanted.limits, clock_mhz=clocks))
            except PlanError as error:
                problem = error  # that of the lowest clocks: where power binds, they need least
        if not plans:
            raise problem
        return min(plans, key=lambda plan: _key(plan, wanted.objective))

    def clocks(self) -> list[dict[str, float]]:
        """Return the combinations of clocks that are weighed."""
        return clock_combinations(self.soc, list(self.resources.cores))

    def kinds(self) -> Iterable[Option]:
        """Yield the best plan of each kind at the highest clocks."""
        pipeline, nothing = Families.none(), replace(Families.none(), one=False)
        several_clusters = len(self.resources.cores) > 1
        several_cores = sum(self.resources.cores.values()) > 1
        accelerators = bool(self._resources({}, accelerators=True).accelerators)
        kinds: list[tuple[str, Families, int | None, bool]] = [
            ("one stage", pipeline, 1, True),
            ("pipeline", pipeline, None, True),
            ("copies of the network", replace(nothing, replicas=True), 1, several_cores),
            ("kernels over clusters, equal parts", replace(nothing, equal_spread=True), 1, several_clusters),
            ("kernels over clusters, by speed", replace(nothing, spread_by_speed=True), 1, several_clusters),
            ("any mixture that can run", RUNNABLE, None, True),
            ("pipeline with GPU and NPU", replace(pipeline, accelerators=True), None, accelerators),
            ("independent frames on everything", replace(nothing, replicas=True, accelerators=True), 1, accelerators),
            ("any mixture at all", Families(), None, several_clusters or accelerators),
        ]
        for name, families, stages, exists in kinds:
            if exists:
                yield self._kind(name, families, stages)

    def _kind(self, name: str, families: Families, stages: int | None) -> Option:
        try:
            plan = self.plan(families, self.question.limits, max_stages=stages)
        except PlanError:  # show it all the same, and what it exceeds
            plan = self.plan(families, Limits(), max_stages=stages)
        return self._option(name, plan)

    def baselines(self) -> Iterable[Option]:
        """Yield what others would do at the highest clocks, priced as our plans are."""
        resources = self._resources({}, accelerators=True)
        for name, stages in baselines(self.model, self.order, resources).items():
            found = evaluate_plan(self.model, self.order, resources, stages)
            plan = build_plan(self.graph, self.model, self.order, self.soc, resources, "throughput", found)
            yield self._option(name, plan)

    def _option(self, name: str, plan: PipelinePlan) -> Option:
        exceeds = tuple(exceeded(plan, self.question.limits))
        return Option(name=name, plan=plan, cannot_run=tuple(cannot_run(plan)), exceeds=exceeds)

    def front(self, progress: Progress) -> Iterable[PipelinePlan]:
        """Yield candidates for the Pareto front: each the best for some limit or objective at some clocks."""
        fastest = self.plan(RUNNABLE, Limits(), "throughput")
        shortest = self.plan(RUNNABLE, Limits(), "latency")
        yield from (fastest, shortest)
        spaced_us = np.geomspace(shortest.latency_us, fastest.latency_us, _LATENCIES_OF_THE_FRONT)
        for latency_us in spaced_us[1:-1]:
            yield self.plan(RUNNABLE, Limits(latency_us=float(latency_us)), "throughput")
        if not knows_power(self.soc):
            return
        combinations = clock_combinations(self.soc, list(self.resources.cores), _CLOCKS_OF_THE_FRONT)
        for number, clocks in enumerate(combinations, start=1):
            progress(f"Tracing the Pareto front, clocks {number} of {len(combinations)}")
            yield self.plan(RUNNABLE, Limits(), "throughput", clocks)
            for objective in ("latency", "energy"):
                yield self.plan(RUNNABLE, Limits(), objective, clocks, max_stages=1)

    def reasons(self, chosen: PipelinePlan, kinds: Sequence[Option], others: Sequence[Option]) -> Iterable[str]:
        """Yield why the chosen plan is the best."""
        search = chosen.search
        assert search is not None
        yield (
            f"All plans along one order of {search.positions - 1} layers were weighed: {search.states:,} states,"
            f" {search.transitions:,} transitions, {search.seconds:.2f} s at one setting of the clocks. None that can"
            f" run and keeps to the limits has a better {_OBJECTIVE_WORDS[self.question.objective]}."
        )
        yield f"It is limited so: {search.limited_by}."
        yield self._bound(chosen)
        if (best_other := _best([o for o in others if not o.cannot_run])) is not None:
            ratio = best_other.plan.period_us / chosen.period_us
            yield f"The best of what others do, {best_other.name}, has {ratio:.2f} times its period."
        if (unrunnable := _best([o for o in kinds if o.cannot_run])) is not None:
            ratio = chosen.period_us / unrunnable.plan.period_us
            if ratio > 1:
                yield (
                    f"{unrunnable.name.capitalize()} would give {ratio:.2f} times its throughput, but cannot run yet:"
                    f" {unrunnable.cannot_run[0]}."
                )

    def _bound(self, chosen: PipelinePlan) -> str:
        bound_us = period_bound_us(self._at(chosen.clock_mhz), self.order, self.resources)
        return (
            "Even if every core were always busy with the layers that suit it best, and cuts, hand-over and contention"
            f" cost nothing, results could not come more often than every {bound_us / 1e3:.2f} ms; the plan reaches"
            f" {bound_us / chosen.period_us:.0%} of that rate."
        )


_OBJECTIVE_WORDS = {"throughput": "period", "latency": "latency", "energy": "energy a frame"}


def exceeded(plan: PipelinePlan, limits: Limits) -> Iterable[str]:
    """Yield every limit that a plan does not keep to, with its value."""
    if limits.latency_us is not None and plan.latency_us > limits.latency_us * (1 + _EQUAL):
        yield f"latency {plan.latency_us / 1e3:.4g} ms of {limits.latency_us / 1e3:.4g}"
    if limits.power_mw is not None and plan.power_mw is not None and plan.power_mw > limits.power_mw:
        yield f"power {plan.power_mw / 1e3:.3g} W of {limits.power_mw / 1e3:.3g}"
    if limits.memory_bytes is not None and (plan.memory_bytes or 0) > limits.memory_bytes:
        yield f"memory {(plan.memory_bytes or 0) / 1e6:.1f} MB of {limits.memory_bytes / 1e6:.1f}"


def _key(plan: PipelinePlan, objective: str) -> tuple[float, ...]:
    energy_mj = plan.energy_mj or 0.0
    keys = {
        "throughput": (plan.period_us, plan.latency_us, energy_mj),
        "latency": (plan.latency_us, plan.period_us, energy_mj),
        "energy": (energy_mj, plan.period_us, plan.latency_us),
    }
    return (*keys[objective], len(plan.stages))


def _best(options: Sequence[Option]) -> Option | None:
    return min(options, key=lambda option: option.plan.period_us, default=None)


def _front(plans: Sequence[PipelinePlan]) -> Iterable[Option]:
    """Yield the plans that none beats in everything, each once, by rising period."""
    distinct = {(p.period_us, p.latency_us, p.energy_mj or 0.0): p for p in plans}
    values = np.array(list(distinct))
    for index, plan in sorted(enumerate(distinct.values()), key=lambda pair: pair[1].period_us):
        no_worse = (values <= values[index] * (1 + _EQUAL)).all(axis=1)
        better = (values < values[index] * (1 - _EQUAL)).any(axis=1)
        if not (no_worse & better).any():
            used = {cluster for stage in plan.stages for cluster in stage.clusters}
            clocks = [f"{name} at {mhz:g} MHz" for name, mhz in plan.clock_mhz.items() if name in used]
            yield Option(name=": ".join(filter(None, [plan.kind, ", ".join(clocks)])), plan=plan)
