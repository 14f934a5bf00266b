"""What others would do with a network and a chip: plans that ours are compared with, by name.

* Pipe-it's heuristic (Wang et al., arXiv 1903.05898, section VI), written from its description: :func:`find_split`,
  :func:`work_flow`, :func:`merge_stage`;
* the best cut in two over whole components, as ARM-CO-UP (github.com/Ehsan-aghapour) makes it;
* the fastest cluster alone, and all cores for each kernel.

The heuristics decide by their own model, which has neither hand-over nor contention; :func:`period_us` then says what
their plan costs in ours.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import networkx as nx
import numpy as np

from cospipe.ir.errors import PlanError
from cospipe.ir.plan import CoreConfiguration
from cospipe.passes.cut_graph import PICOSECONDS_PER_US, Resources
from cospipe.passes.stage_costs import StageCosts
from cospipe.passes.stage_options import Placement, StageOption

FASTEST_CLUSTER = "fastest cluster"
ALL_CORES = "all cores for each kernel"
PIPE_IT = "Pipe-it"
BIG_LITTLE = "two-way, clusters"
TWO_WAY = "two-way, components"


class BaselineStage(NamedTuple):
    """The units ``order[start:stop]`` on one placement."""

    start: int
    stop: int
    placement: Placement


Stages = tuple[BaselineStage, ...]


def baselines(model: nx.DiGraph[str], order: Sequence[str], resources: Resources) -> dict[str, Stages]:
    """Return the plan of every baseline that this chip allows.

    Parameters
    ----------
    model : networkx.DiGraph
        A model graph: units have ``time_us``, edges ``values``.
    order : sequence of str
        The units in a topological order; all plans cut along it.
    resources : Resources
        What may be used, fastest cluster first.

    Returns
    -------
    dict of str to stages
        On a chip with one cluster and no accelerator only :data:`FASTEST_CLUSTER` and :data:`PIPE_IT`.

    Raises
    ------
    PlanError
        When there is nothing to run.
    """
    if not order or not resources.cores:
        raise PlanError("There is nothing to run, or no core to run it on; baselines need both.")
    clusters = [CoreConfiguration(name, cores) for name, cores in resources.cores.items()]
    components = [*clusters, *(CoreConfiguration(name, 1) for name in resources.accelerators)]
    found = {
        FASTEST_CLUSTER: fastest_cluster(model, order, resources),
        PIPE_IT: pipe_it(model, order, resources),
    }
    if len(clusters) > 1:
        found[ALL_CORES] = (BaselineStage(0, len(order), Placement(tuple(clusters))),)
        found[BIG_LITTLE] = two_way(model, order, resources, clusters)
    if len(components) > len(clusters):
        found[TWO_WAY] = two_way(model, order, resources, components)
    return found


def period_us(stages: Stages, model: nx.DiGraph[str], order: Sequence[str], resources: Resources) -> float:
    """Return the period of a plan as the search counts it: the longest stage with hand-over, times contention."""
    placements = tuple(dict.fromkeys(stage.placement for stage in stages))
    return _period_us(stages, _costs(placements, model, order, resources), resources)


def fastest_cluster(model: nx.DiGraph[str], order: Sequence[str], resources: Resources) -> Stages:
    """Return the whole network on all cores of the cluster that is fastest alone."""
    clusters = [CoreConfiguration(name, cores) for name, cores in resources.cores.items()]
    fastest = min(clusters, key=lambda cluster: sum(model.nodes[unit]["time_us"][cluster] for unit in order))
    return (_stage(0, len(order), fastest),)


def two_way(
    model: nx.DiGraph[str], order: Sequence[str], resources: Resources, components: Sequence[CoreConfiguration]
) -> Stages:
    """Return the best cut in two, in either direction, between whole components; or the best of them alone.

    ARM-CO-UP measures the parts, so this one knows hand-over and contention.
    """
    costs = _costs([Placement((component,)) for component in components], model, order, resources)
    plans: list[Stages] = [(_stage(0, len(order), component),) for component in components]
    plans += [
        (_stage(0, cut, first), _stage(cut, len(order), second))
        for first, second in itertools.permutations(components, 2)
        for cut in range(1, len(order))
        if _fit_together(first, second, resources)
    ]
    return min(plans, key=lambda stages: _period_us(stages, costs, resources))


def pipe_it(model: nx.DiGraph[str], order: Sequence[str], resources: Resources) -> Stages:
    """Return the pipeline of Pipe-it's heuristic over the CPU clusters."""
    configurations = [c for c in resources.configurations() if c.cluster in resources.cores]
    times_us = {c: [float(model.nodes[unit]["time_us"][c]) for unit in order] for c in configurations}
    return merge_stage(times_us, resources.cores)


def find_split(first_us: Sequence[float], second_us: Sequence[float]) -> int:
    """Balance two neighbouring stages: return how many of their layers the first one keeps (Pipe-it, section VI).

    Layers move one by one from the end of the first stage to the second until the longer of the two would get longer.

    Parameters
    ----------
    first_us, second_us : sequence of float
        Time of each layer on either stage.
    """
    layers = len(first_us)
    kept_us = np.concatenate([[0.0], np.cumsum(first_us)])
    moved_us = np.concatenate([[0.0], np.cumsum(second_us[::-1])])[::-1]
    return min(range(layers + 1), key=lambda kept: max(kept_us[kept], moved_us[kept]))


def work_flow(times_us: Sequence[Sequence[float]]) -> tuple[int, ...]:
    """Let layers flow from the fastest stage down the pipe until they rest (Pipe-it, section VI).

    At first the fastest stage has all layers. :func:`find_split` balances each stage with the next one, from the first
    to the last, again and again until no layer moves.

    Parameters
    ----------
    times_us : sequence of sequence of float
        Time of each layer on each stage, fastest stage first.

    Returns
    -------
    tuple of int
        Where each stage begins, and the number of layers; a stage may be empty.
    """
    stages, layers = len(times_us), len(times_us[0])
    bounds = [0, *([layers] * stages)]
    for _ in range(stages * layers + 1):
        before = list(bounds)
        for stage in range(stages - 1):
            start, stop = bounds[stage], bounds[stage + 2]
            bounds[stage + 1] = start + find_split(times_us[stage][start:stop], times_us[stage + 1][start:stop])
        if bounds == before:
            break
    return tuple(bounds)


def merge_stage(times_us: Mapping[CoreConfiguration, Sequence[float]], cores: Mapping[str, int]) -> Stages:
    """Merge neighbouring stages of one cluster while that makes the pipeline no slower (Pipe-it, section VI).

    The pipeline begins with a stage on each core. From the first stage of each cluster on, a stage and its neighbour
    become one stage on the cores of both if the period with :func:`work_flow` is then no longer; otherwise the next
    pair is tried. Stages without layers are left out at the end. That a merge which changes nothing is made is our
    reading of the description: it finds better pipelines than the other one.

    Parameters
    ----------
    times_us : mapping of CoreConfiguration to sequence of float
        Time of each layer on each core configuration.
    cores : mapping of str to int
        Cores of each cluster, fastest first.
    """
    pipeline = [CoreConfiguration(name, 1) for name, count in cores.items() for _ in range(count)]
    best_us = _longest_us(pipeline, times_us)
    stage = 0
    while stage + 1 < len(pipeline):
        merged = _merged(pipeline, stage)
        if merged and (merged_us := _longest_us(merged, times_us)) <= best_us:
            pipeline, best_us = merged, merged_us
        else:
            stage += 1
    bounds = work_flow([times_us[c] for c in pipeline])
    spans = zip(itertools.pairwise(bounds), pipeline, strict=True)
    return tuple(_stage(start, stop, configuration) for (start, stop), configuration in spans if start < stop)


def _merged(pipeline: Sequence[CoreConfiguration], stage: int) -> list[CoreConfiguration]:
    """Return the pipeline with a stage and its neighbour in one; empty when they are of different clusters."""
    first, second = pipeline[stage : stage + 2]
    if first.cluster != second.cluster:
        return []
    return [*pipeline[:stage], CoreConfiguration(first.cluster, first.cores + second.cores), *pipeline[stage + 2 :]]


def _longest_us(pipeline: Sequence[CoreConfiguration], times_us: Mapping[CoreConfiguration, Sequence[float]]) -> float:
    return max(_stage_times_us(pipeline, times_us))


def _stage_times_us(
    pipeline: Sequence[CoreConfiguration], times_us: Mapping[CoreConfiguration, Sequence[float]]
) -> Iterator[float]:
    bounds = work_flow([times_us[configuration] for configuration in pipeline])
    for (start, stop), configuration in zip(itertools.pairwise(bounds), pipeline, strict=True):
        yield sum(times_us[configuration][start:stop])


def _costs(
    placements: Sequence[Placement], model: nx.DiGraph[str], order: Sequence[str], resources: Resources
) -> StageCosts:
    return StageCosts(model, order, resources, [StageOption(((placement, 1),)) for placement in placements])


def _period_us(stages: Stages, costs: StageCosts, resources: Resources) -> float:
    number = {option.replicas[0][0]: index for index, option in enumerate(costs.options)}
    longest_ps = max(int(costs.at(stop).period_ps[start, number[placement]]) for start, stop, placement in stages)
    at_work = {cores.cluster for stage in stages for cores in stage.placement.cores}
    permille = resources.contention_permille(len(at_work) if len(stages) > 1 else 1)
    return longest_ps * permille / 1000 / PICOSECONDS_PER_US


def _stage(start: int, stop: int, configuration: CoreConfiguration) -> BaselineStage:
    return BaselineStage(start, stop, Placement((configuration,)))


def _fit_together(first: CoreConfiguration, second: CoreConfiguration, resources: Resources) -> bool:
    """Whether neither needs a core of the other to drive it."""
    hosts = {resources.accelerators.get(first.cluster), resources.accelerators.get(second.cluster)}
    return not hosts & {first.cluster, second.cluster}
