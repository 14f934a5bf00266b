"""Design-space exploration: which nodes run in which stage, on which cores."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import networkx as nx
from torch import fx

from cospipe.ir.annotations import LATENCY, LATENCY_SOC_KEY, PLAN_KEY, STAGE
from cospipe.ir.errors import PassError, UsageError
from cospipe.ir.plan import CoreConfiguration, PipelinePlan, SearchReport, StagePlan
from cospipe.ir.soc import Soc, load_soc
from cospipe.passes.base import Pass, PassResult
from cospipe.passes.cut_graph import Resources
from cospipe.passes.model_graph import cheap_order, check_annotated, compute_nodes, model_graph
from cospipe.passes.search import SearchResult, check_objective, search_pipeline

_MOST_OF_THE_PERIOD = 0.9
"""A layer that takes more than this part of the longest stage is named as what limits the period."""


@dataclass(frozen=True)
class Partition(Pass):
    """Find the best pipeline and tag each compute node with its stage; the graph itself is not touched.

    * Stages are runs of the units of the model graph in one order that keeps cuts cheap, so every tensor flows to
      the same or a later stage. Of all pipelines along this order the best is found; other orders are not tried.
    * Each stage has cores of one cluster for itself; cores may stay unused.
    * ``node.meta["cospipe.stage"]`` becomes ``"stage0"``, ``"stage1"`` ...; the plan goes to
      ``graph_module.meta["cospipe.plan"]``.

    The result says ``modified`` when a tag or the plan differs from what was there before.

    Parameters
    ----------
    soc : str
        Name of an SoC, or path of its TOML file; the latencies must have been predicted for it.
    objective : str
        ``"throughput"`` (shortest period) or ``"latency"`` (shortest way of one input).
    max_stages : int
        Most stages allowed; 0 for no limit but the cores.
    cores : str
        Cores that may be used, ``"big:4+little:2"``; a cluster without a number means all of it, empty the whole chip.

    Raises
    ------
    UsageError
        When the objective, the SoC or a cluster is unknown, or more cores are asked for than there are.
    """

    name: ClassVar[str] = "partition"
    soc: str = "hikey970"
    objective: str = "throughput"
    max_stages: int = 0
    cores: str = ""

    def __post_init__(self) -> None:
        check_objective(self.objective)
        if self.max_stages < 0:
            raise UsageError(f"max_stages must be 0 (no limit) or more, not {self.max_stages}.")

    def requires(self, graph_module: fx.GraphModule) -> None:
        """Raise PassError unless every compute node has latencies for this SoC."""
        check_annotated(graph_module.graph)
        soc = load_soc(self.soc)
        predicted_for = graph_module.meta.get(LATENCY_SOC_KEY, soc.name)
        if predicted_for != soc.name:
            raise PassError(
                f"The latencies were predicted for {predicted_for}, not for {soc.name};"
                f" run {LATENCY.writer}{{soc={self.soc}}} first."
            )
        wanted = set(soc.configurations())
        for node in compute_nodes(graph_module.graph):
            predicted = set(LATENCY.get(node) or wanted)
            if predicted != wanted:
                raise PassError(
                    f"The latencies of {node.name} are for {_listed(predicted)}, but {soc.name} has {_listed(wanted)};"
                    f" run {LATENCY.writer}{{soc={self.soc}}} first."
                )

    def call(self, graph_module: fx.GraphModule) -> PassResult:
        """Search, tag, and store the plan."""
        return PassResult(graph_module, tag_stages(graph_module, self._plan(graph_module.graph)))

    def _plan(self, graph: fx.Graph) -> PipelinePlan:
        soc = load_soc(self.soc)
        model = model_graph(graph)
        order = cheap_order(model)
        resources = Resources(
            _allowed_cores(soc, self.cores), soc.hand_over_us, soc.hand_over_gb_per_s, self.max_stages
        )
        found = search_pipeline(model, order, resources, self.objective)
        stages = _stage_plans(graph, model, order, found, soc)
        return PipelinePlan(
            soc=soc.name,
            objective=self.objective,
            stages=stages,
            single_stage_us=_single_stage_us(model, order, soc),
            search=SearchReport(
                positions=found.positions,
                states=found.states,
                transitions=found.transitions,
                seconds=found.seconds,
                limited_by=_limited_by(self.objective, model, order, found, resources),
            ),
        )


def tag_stages(graph_module: fx.GraphModule, plan: PipelinePlan) -> bool:
    """Tag each compute node with its stage of a plan, and keep the plan; return whether that changed anything.

    Raises
    ------
    PassError
        When the plan is of another graph: its nodes are not those of this one.
    """
    tags = {node: stage.name for stage in plan.stages for node in stage.nodes}
    nodes = compute_nodes(graph_module.graph)
    if different := sorted({node.name for node in nodes} ^ tags.keys()):
        raise PassError(f"The plan is of another network: only one of the two has {', '.join(different[:5])}.")
    if _same(graph_module.meta.get(PLAN_KEY), plan) and all(STAGE.get(node) == tags[node.name] for node in nodes):
        return False
    for node in nodes:
        STAGE.set(node, tags[node.name])
    graph_module.meta[PLAN_KEY] = plan
    return True


def _listed(configurations: set[CoreConfiguration]) -> str:
    return ", ".join(str(configuration) for configuration in sorted(configurations))


def _same(before: object, after: PipelinePlan) -> bool:
    """Compare two plans but for how long they took to find."""
    return isinstance(before, PipelinePlan) and before.model_copy(update={"search": after.search}) == after


def _allowed_cores(soc: Soc, text: str) -> dict[str, int]:
    if not text:
        return {cluster.name: cluster.cores for cluster in soc.clusters}
    wanted = [_parse_cores(soc, part.strip()) for part in text.split("+")]
    soc.check_cores(wanted)
    allowed = Counter[str]()
    for configuration in wanted:
        allowed[configuration.cluster] += configuration.cores
    return {cluster.name: allowed[cluster.name] for cluster in soc.clusters if allowed[cluster.name]}


def _parse_cores(soc: Soc, text: str) -> CoreConfiguration:
    if ":" in text:
        return CoreConfiguration.parse(text)
    return CoreConfiguration(text, soc.cluster(text).cores)


def _stage_plans(
    graph: fx.Graph, model: nx.DiGraph[str], order: Sequence[str], found: SearchResult, soc: Soc
) -> tuple[StagePlan, ...]:
    number = {node.name: index for index, node in enumerate(graph.nodes)}
    free = {cluster.name: list(cluster.cpu_ids) for cluster in soc.clusters}
    plans = []
    for index, stage in enumerate(found.stages):
        nodes = [node for unit in order[stage.start : stage.stop] for node in model.nodes[unit]["nodes"]]
        ids = free[stage.configuration.cluster]
        plan = StagePlan(
            name=f"stage{index}",
            configuration=stage.configuration,
            cpu_ids=tuple(ids.pop(0) for _ in range(stage.configuration.cores)),
            nodes=tuple(sorted(nodes, key=number.__getitem__)),
            compute_us=stage.compute_us,
            hand_over_us=stage.hand_over_us,
            hand_over_bytes=stage.hand_over_bytes,
        )
        plans.append(plan)
    return tuple(plans)


def _single_stage_us(model: nx.DiGraph[str], order: Sequence[str], soc: Soc) -> dict[str, float]:
    return {
        str(configuration): sum(model.nodes[unit]["time_us"][configuration] for unit in order)
        for configuration in soc.configurations()
    }


def _limited_by(
    objective: str, model: nx.DiGraph[str], order: Sequence[str], found: SearchResult, resources: Resources
) -> str:
    """Say why no pipeline is better. That it is the best is proved by the search; this only names the reason."""
    times_us = [stage.compute_us + stage.hand_over_us for stage in found.stages]
    index = max(range(len(times_us)), key=times_us.__getitem__)
    longest, period_us = found.stages[index], times_us[index]
    where = f"stage{index} on {longest.configuration}"
    idle = sum(resources.cores.values()) - sum(stage.configuration.cores for stage in found.stages)
    if objective == "latency" and len(found.stages) == 1:
        return f"the objective is latency: no cut makes one input faster than {longest.configuration} does alone"
    if objective == "latency":
        return f"the objective is latency: the period is that of {where}, even if more stages would shorten it"
    layers_us = {
        unit: model.nodes[unit]["time_us"][longest.configuration] for unit in order[longest.start : longest.stop]
    }
    layer = max(layers_us, key=layers_us.__getitem__)
    if layers_us[layer] > _MOST_OF_THE_PERIOD * period_us:
        share = 100 * layers_us[layer] / period_us
        return f"one layer, {layer}, takes {share:.0f} % of the period on {longest.configuration} and cannot be cut"
    if len(found.stages) == resources.max_stages:
        return f"no more than {resources.max_stages} stage(s) are allowed; the longest is {where}"
    if not idle:
        return f"all {sum(resources.cores.values())} cores are used; the longest stage is {where}"
    return f"{idle} core(s) stay idle: with them no pipeline has a shorter longest stage than {where}"
