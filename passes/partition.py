"""Design-space exploration: which nodes run in which stage, on which cores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final

from torch import fx

from cospipe.ir.annotations import LATENCY, LATENCY_SOC_KEY, PLAN_KEY, STAGE
from cospipe.ir.errors import PassError, UsageError
from cospipe.ir.exploration import Limits
from cospipe.ir.plan import CoreConfiguration, PipelinePlan
from cospipe.ir.soc import Soc, load_soc
from cospipe.passes.base import Pass, PassResult
from cospipe.passes.model_graph import cheap_order, check_annotated, compute_nodes, model_graph
from cospipe.passes.plan_building import build_plan
from cospipe.passes.resources import chip_resources, knows_power
from cospipe.passes.search import check_objective, search_plan
from cospipe.passes.stage_options import Families

RUNNABLE: Final = Families(accelerators=False)
"""What a bundle can run."""
PLANS: Final = ("all", "pipeline")


@dataclass(frozen=True)
class Partition(Pass):
    """Find the best plan and tag each compute node with its stage; the graph itself is not touched.

    * Stages are runs of the units of the model graph in one order that keeps cuts cheap, so every tensor flows to
      the same or a later stage. Of all plans along this order the best is found; other orders are not tried.
    * Each stage has cores for itself: some of one cluster, replicas on several such sets, or kernels spread over
      clusters, in equal parts or by speed. Cores may stay unused.
    * ``node.meta["cospipe.stage"]`` becomes ``"stage0"``, ``"stage1"`` ...; the plan goes to
      ``graph_module.meta["cospipe.plan"]``.

    The result says ``modified`` when a tag or the plan differs from what was there before.

    Parameters
    ----------
    soc : str
        Name of an SoC, or path of its TOML file; the latencies must have been predicted for it.
    objective : str
        ``"throughput"`` (shortest period), ``"latency"`` (shortest way of one input) or ``"energy"`` (least for one
        frame at the highest clocks; :func:`cospipe.passes.explore.explore` weighs lower ones, too).
    max_stages : int
        Most stages allowed; 0 for no limit but the cores.
    cores : str
        Cores that may be used, ``"big:4+little:2"``; a cluster without a number means all of it, empty the whole chip.
    plans : str
        ``"all"`` kinds that a bundle can run, or ``"pipeline"``: one replica a stage, on one cluster.
    max_latency_us, max_power_mw, max_memory_bytes : float
        Limits the plan keeps to; 0 for none. Power is that of the board when every stage is busy.

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
    plans: str = "all"
    max_latency_us: float = 0.0
    max_power_mw: float = 0.0
    max_memory_bytes: int = 0

    def __post_init__(self) -> None:
        check_objective(self.objective)
        if self.max_stages < 0:
            raise UsageError(f"max_stages must be 0 (no limit) or more, not {self.max_stages}.")
        if self.plans not in PLANS:
            raise UsageError(f"plans must be {' or '.join(PLANS)}, not {self.plans!r}.")
        limits = {name: getattr(self, name) for name in ("max_latency_us", "max_power_mw", "max_memory_bytes")}
        if wrong := [f"{name}={value:g}" for name, value in limits.items() if not 0 <= value < float("inf")]:
            raise UsageError(f"Limits must be 0 (none) or more, not {', '.join(wrong)}.")

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
        wanted = {*soc.configurations(), *soc.accelerator_configurations()}
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
        resources = chip_resources(soc, self.cores, self.max_stages)
        families = RUNNABLE if self.plans == "all" else Families.none()
        found = search_plan(model, order, resources, self.objective, self._limits(soc), families)
        return build_plan(graph, model, order, soc, resources, self.objective, found)

    def _limits(self, soc: Soc) -> Limits:
        check_power_known(soc, self.objective, self.max_power_mw)
        return Limits(
            latency_us=self.max_latency_us or None,
            power_mw=self.max_power_mw or None,
            memory_bytes=self.max_memory_bytes or None,
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


def check_power_known(soc: Soc, objective: str, max_power_mw: float) -> None:
    """Check that the chip's description has the figures an objective or a limit needs.

    Raises
    ------
    UsageError
        When energy or power is asked for and not known.
    """
    if (objective == "energy" or max_power_mw) and not knows_power(soc):
        raise UsageError(
            f"The description of {soc.name} does not say what its cores draw; give idle_power_mw, and core_power_mw of"
            " every cluster, in a TOML file of your own (see docs/adding-a-board.md)."
        )


def _listed(configurations: set[CoreConfiguration]) -> str:
    return ", ".join(str(configuration) for configuration in sorted(configurations))


def _same(before: object, after: PipelinePlan) -> bool:
    """Compare two plans but for how long they took to find."""
    return isinstance(before, PipelinePlan) and before.model_copy(update={"search": after.search}) == after
