"""Exact search for the best pipeline of a model graph, with networkx and numpy alone.

A *state* is a cut position together with the cores of each cluster that the stages so far have used. Labels of
states are relaxed along the cut graph (:mod:`cospipe.passes.cut_graph`) in topological order, so the search is exact
and takes polynomial time: positions^2 x usages x core configurations.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass

import networkx as nx
import numpy as np

from cospipe.ir.errors import PlanError, UsageError
from cospipe.ir.plan import OBJECTIVES, CoreConfiguration
from cospipe.passes.cut_graph import PICOSECONDS_PER_US, UNREACHABLE, Integers, Resources, cut_graph


@dataclass(frozen=True)
class Stage:
    """The units ``order[start:stop]`` on one core configuration."""

    start: int
    stop: int
    configuration: CoreConfiguration
    compute_us: float
    hand_over_us: float
    hand_over_bytes: int


@dataclass(frozen=True)
class SearchResult:
    """The best pipeline, and how much was looked at to find it (see :class:`cospipe.ir.plan.SearchReport`)."""

    stages: tuple[Stage, ...]
    positions: int
    states: int
    transitions: int
    seconds: float


@dataclass(frozen=True)
class _Criterion:
    """One number of a pipeline: ``combine`` folds the stage times (or a one for each stage) into it."""

    combine: np.ufunc
    counts_stages: bool = False


_LONGEST = _Criterion(np.maximum)
_TOTAL = _Criterion(np.add)
_STAGES = _Criterion(np.add, counts_stages=True)
_FIRST_PHASE = {"throughput": (_LONGEST,), "latency": (_TOTAL, _LONGEST)}
_SECOND_PHASE = (_TOTAL, _STAGES)


def search_pipeline(
    model: nx.DiGraph[str], order: Sequence[str], resources: Resources, objective: str = "throughput"
) -> SearchResult:
    """Find the best pipeline of a model graph.

    ``throughput`` minimises (longest stage, sum of all stages, number of stages), ``latency`` minimises (sum,
    longest, number), both lexicographically and exactly. A stage takes the sum of its units on its core
    configuration and, unless it is the first, the hand-over: a fixed cost and the bytes of the distinct values it
    reads from outside. Values that only pass by cost nothing.

    Two phases make the ties exact. A state keeps one label, and the pipeline with the shortest longest stage so far
    need not be the one that ends with the smallest sum. So the first phase finds the length of the longest stage in
    the best pipeline, and the second the least sum, then the fewest stages, among stages no longer than that.

    Parameters
    ----------
    model : networkx.DiGraph
        A model graph (see :func:`cospipe.passes.model_graph.model_graph`): units have ``time_us``, edges ``values``.
    order : sequence of str
        The units in a topological order; stages are runs of it.
    resources : Resources
        Cores and hand-over costs.
    objective : str
        ``"throughput"`` or ``"latency"``.

    Returns
    -------
    SearchResult
        Stages in the order they run, together using at most ``resources.cores``.

    Raises
    ------
    UsageError
        When the objective is unknown, or no core may be used.
    PlanError
        When there is nothing to run, or times are negative, not finite or too large to count in picoseconds.
    """
    started = time.perf_counter()
    check_objective(objective)
    _check_resources(resources)
    if not order:
        raise PlanError("There is nothing to run: the model graph has no units.")
    cuts, sources = cut_graph(model, order, resources), _usages_before(resources)
    first = _relax(cuts, sources, _FIRST_PHASE[objective])
    short = _stages_within(cuts, first.best(_LONGEST))
    second = _relax(short, sources, _SECOND_PHASE)
    configurations = resources.configurations()
    return SearchResult(
        stages=tuple(_stage(cuts, start, stop, choice, configurations) for start, stop, choice in second.steps()),
        positions=len(order) + 1,
        states=(len(order) + 1) * sources.shape[1],
        transitions=_transitions(cuts, sources) + _transitions(short, sources),
        seconds=time.perf_counter() - started,
    )


def check_objective(objective: str) -> None:
    """Check the name of an objective.

    Raises
    ------
    UsageError
        When it is unknown.
    """
    if objective not in OBJECTIVES:
        raise UsageError(f"There is no objective {objective!r}; choose {' or '.join(OBJECTIVES)}.")


def _check_resources(resources: Resources) -> None:
    if not resources.configurations():
        raise UsageError("A pipeline needs at least one core; allow at least one.")
    if resources.max_stages < 0:
        raise UsageError(f"max_stages must be 0 (no limit) or more, not {resources.max_stages}.")


def _usages_before(resources: Resources) -> Integers:
    """Return, for each configuration and usage, the usage before that stage; one past the last when impossible."""
    configurations = resources.configurations()
    demands = [tuple(c.cores * (c.cluster == name) for name in resources.cores) for c in configurations]
    limits = tuple(resources.cores.values())
    if resources.max_stages:
        # A limit on stages is one more thing to use up: each stage takes one.
        limits = (*limits, resources.max_stages)
        demands = [(*demand, 1) for demand in demands]
    usages = list(itertools.product(*(range(limit + 1) for limit in limits)))
    number = {usage: index for index, usage in enumerate(usages)}
    rows = [[number.get(_minus(usage, demand), len(usages)) for usage in usages] for demand in demands]
    return np.array(rows, dtype=np.int64)


def _minus(usage: tuple[int, ...], demand: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(used - needed for used, needed in zip(usage, demand, strict=True))


def _stages_within(cuts: nx.DiGraph[int], longest_ps: int) -> nx.DiGraph[int]:
    """Return the cut graph with only the stages, and only their configurations, that take at most so long."""
    short: nx.DiGraph[int] = nx.DiGraph()
    short.add_nodes_from(cuts)
    for start, stop, edge in cuts.edges(data=True):
        times_ps = edge["times_ps"]
        if times_ps.min() <= longest_ps:
            short.add_edge(start, stop, times_ps=np.where(times_ps <= longest_ps, times_ps, UNREACHABLE))
    return short


@dataclass(frozen=True)
class _Labels:
    """The best value of each criterion in each state, and the last stage that leads there."""

    criteria: tuple[_Criterion, ...]
    values: Integers
    """[criterion, position, usage], with one usage more, the one before an impossible stage."""
    starts: Integers
    """[position, usage]: where the last stage starts."""
    choices: Integers
    """[position, usage]: number of the last stage's configuration."""
    sources: Integers
    """[configuration, usage]: the usage before a stage."""

    def best(self, criterion: _Criterion) -> int:
        """Return one criterion of the best complete pipeline."""
        return int(self.values[self.criteria.index(criterion), -1, self._best_usage()])

    def steps(self) -> list[tuple[int, int, int]]:
        """Return the stages of the best complete pipeline: start, stop, number of the configuration."""
        position, usage = self.values.shape[1] - 1, self._best_usage()
        steps = []
        while position > 0:
            start, choice = int(self.starts[position, usage]), int(self.choices[position, usage])
            steps.append((start, position, choice))
            position, usage = start, int(self.sources[choice, usage])
        return steps[::-1]

    def _best_usage(self) -> int:
        complete = self.values[:, -1, :-1, np.newaxis]
        return int(_lexicographic_argmin(complete)[0])


def _relax(cuts: nx.DiGraph[int], sources: Integers, criteria: tuple[_Criterion, ...]) -> _Labels:
    positions, usages = cuts.number_of_nodes(), sources.shape[1]
    labels = _Labels(
        criteria=criteria,
        values=np.full((len(criteria), positions, usages + 1), UNREACHABLE, dtype=np.int64),
        starts=np.zeros((positions, usages), dtype=np.int64),
        choices=np.zeros((positions, usages), dtype=np.int64),
        sources=sources,
    )
    labels.values[:, 0, 0] = 0
    for position in nx.topological_sort(cuts):
        if cuts.pred[position]:
            _relax_position(cuts, position, labels)
    return labels


def _relax_position(cuts: nx.DiGraph[int], position: int, labels: _Labels) -> None:
    """Label all states of one position at once: every last stage, on every configuration, from every usage."""
    starts = np.fromiter(cuts.pred[position], dtype=np.int64)
    times_ps = np.stack([edge["times_ps"] for edge in cuts.pred[position].values()])
    configurations, usages = labels.sources.shape
    before = labels.values[:, starts][:, :, labels.sources]
    after = np.stack([_extend(*pair, times_ps) for pair in zip(labels.criteria, before, strict=True)])
    after = after.reshape(len(labels.criteria), len(starts) * configurations, usages)
    best = _lexicographic_argmin(after)
    labels.values[:, position, :-1] = after[:, best, np.arange(usages)]
    labels.starts[position] = starts[best // configurations]
    labels.choices[position] = best % configurations


def _extend(criterion: _Criterion, before: Integers, times_ps: Integers) -> Integers:
    """Add one stage to the labels [start, configuration, usage] before it."""
    amounts = np.where(times_ps < UNREACHABLE, 1, UNREACHABLE) if criterion.counts_stages else times_ps
    after: Integers = np.minimum(criterion.combine(before, amounts[:, :, np.newaxis]), UNREACHABLE)
    return after


def _lexicographic_argmin(candidates: Integers) -> Integers:
    """Return, for candidates [criterion, candidate, column], the first best candidate of each column."""
    best = np.ones(candidates.shape[1:], dtype=bool)
    for values in candidates:
        still_best = np.where(best, values, UNREACHABLE)
        best &= still_best == still_best.min(axis=0)
    first: Integers = best.argmax(axis=0)
    return first


def _transitions(cuts: nx.DiGraph[int], sources: Integers) -> int:
    usages = (sources < sources.shape[1]).sum(axis=1)
    return sum(int(usages[edge["times_ps"] < UNREACHABLE].sum()) for _, _, edge in cuts.edges(data=True))


def _stage(
    cuts: nx.DiGraph[int], start: int, stop: int, choice: int, configurations: Sequence[CoreConfiguration]
) -> Stage:
    edge = cuts.edges[start, stop]
    return Stage(
        start=start,
        stop=stop,
        configuration=configurations[choice],
        compute_us=(int(edge["times_ps"][choice]) - edge["hand_over_ps"]) / PICOSECONDS_PER_US,
        hand_over_us=edge["hand_over_ps"] / PICOSECONDS_PER_US,
        hand_over_bytes=edge["hand_over_bytes"],
    )
