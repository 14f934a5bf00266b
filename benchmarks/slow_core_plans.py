"""A network explored on this machine with one slow core: the plan that is chosen, and the best of every other kind."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from models import Network

from cospipe.backends.bundle import Bundle
from cospipe.backends.profiling.measuring import ThisMachine, measure
from cospipe.backends.profiling.networks import PreparedNetwork, prepare_network
from cospipe.backends.tvm.pack import pack
from cospipe.backends.tvm.pack_request import PackRequest
from cospipe.ir.annotations import LATENCY, LATENCY_SOC_KEY, LAYER
from cospipe.ir.crowding import Crowding
from cospipe.ir.exploration import Exploration
from cospipe.ir.latency import CPU_KERNELS, LatencySource
from cospipe.ir.measured_latency import MeasuredLatencyModel
from cospipe.ir.plan import CoreConfiguration, PipelinePlan
from cospipe.ir.profile import ConfigurationProfile, NetworkProfile
from cospipe.ir.soc import Soc, load_soc
from cospipe.passes.annotate_layers import AnnotateLayers
from cospipe.passes.explore import Question, explore
from cospipe.passes.partition import tag_stages
from cospipe.passes.split import Split

FAST, SLOW = CoreConfiguration("big", 1), CoreConfiguration("little", 1)
KINDS = {
    "one stage": "fast-core",
    "pipeline": "pipeline",
    "copies of the network": "copies",
    "all cores for each kernel": "all-cores",
    "kernels over clusters, equal parts": "all-cores",
    "kernels over clusters, by speed": "all-cores-by-speed",
}
"""What the kinds and baselines of an exploration are called here."""
CHOSEN = "mixture"
"""What the chosen plan is called when it is none of those."""
CONTENTION = 0.04
"""Median of ten networks on two cores of an EPYC virtual machine: two copies, one on a core of 0.4 times the speed,
gave 1.34 times the frames of one, not 1.4; caches and memory are shared, and somebody must bring the frames."""
_ROUNDS = 20

Progress = Callable[[str], None]


def one_slow_core(fast_cpu: int, slow_cpu: int) -> Soc:
    """Describe this machine as two clusters of one core; that the second is slow is in the measured times alone."""
    host = load_soc("host")
    cluster = host.clusters[0]
    one = {
        "cores": 1,
        "memory_bandwidth_gb_per_s": cluster.memory_bandwidth_gb_per_s[:1],
        "parallel_efficiency": cluster.parallel_efficiency[:1],
    }
    big = cluster.model_copy(update={**one, "name": FAST.cluster, "cpu_ids": (fast_cpu,)})
    little = cluster.model_copy(update={**one, "name": SLOW.cluster, "cpu_ids": (slow_cpu,)})
    return host.model_copy(update={"clusters": (big, little), "contention": CONTENTION})


@dataclass(frozen=True)
class Explored:
    """A captured network with an exploration of it."""

    soc: Soc
    network: Network
    prepared: PreparedNetwork
    exploration: Exploration

    def plans(self) -> dict[str, PipelinePlan]:
        """Return the plans to measure by name, none twice, and the chosen one among them."""
        options = [o for o in (*self.exploration.kinds, *self.exploration.baselines) if not o.cannot_run]
        named = [(KINDS[o.name], o.plan) for o in options if o.name in KINDS]
        plans: dict[str, PipelinePlan] = {}
        for name, plan in [*named, (CHOSEN, self.exploration.chosen)]:
            if _layout(plan) not in map(_layout, plans.values()):
                plans.setdefault(name, plan)
        return plans

    def is_chosen(self, plan: PipelinePlan) -> bool:
        """Tell whether the search picked a plan."""
        return _layout(plan) == _layout(self.exploration.chosen)

    def compile(self, plan: PipelinePlan, folder: Path) -> Bundle:
        """Compile a plan into a bundle."""
        graph_module = self.prepared.graph_module
        tag_stages(graph_module, plan)
        request = PackRequest(
            pipeline=Split()(graph_module).graph_module,
            soc=self.soc,
            machine=self.soc,
            model=self.prepared.name,
            passes="fold-batch-norm,partition,split",
            example_inputs=self.prepared.inputs,
            expected=tuple(torch.from_numpy(array) for array in self.prepared.expected),
            originals={},
        )
        return pack(request, folder, lambda _step: None)


def _layout(plan: PipelinePlan) -> tuple[object, ...]:
    """Return what runs where, without what is predicted."""
    return tuple((stage.nodes, tuple((r.cores, r.sharing) for r in stage.replicas)) for stage in plan.stages)


def explore_network(name: str, network: Network, soc: Soc, slow_speed: float, progress: Progress) -> Explored:
    """Profile a network on the fast core and explore it; on the slow core a kernel takes 1 / ``slow_speed`` times."""
    prepared = prepare_network(name, network.module, network.inputs)
    measured = measure(prepared, soc, FAST, ThisMachine(), _ROUNDS, lambda step: progress(f"{name}: profiling, {step}"))
    profile = NetworkProfile(
        model=name,
        fingerprint=prepared.fingerprint,
        configurations={str(FAST): measured, str(SLOW): _slowed(measured, slow_speed)},
    )
    graph_module = AnnotateLayers()(prepared.graph_module).graph_module
    model, crowding = MeasuredLatencyModel(soc, CPU_KERNELS, LatencySource.MEASURED, profile), Crowding(soc)
    for node in graph_module.graph.nodes:
        if (layer := LAYER.get(node)) is not None:
            alone = {c: model.predict(layer, c, node.name) for c in soc.configurations()}
            LATENCY.set(node, {c: replace(p, crowding=crowding.factor(layer, c)) for c, p in alone.items()})
    graph_module.meta[LATENCY_SOC_KEY] = soc.name
    exploration = explore(graph_module.graph, Question(soc), name, lambda step: progress(f"{name}: {step}"))
    return Explored(soc, network, replace(prepared, graph_module=graph_module), exploration)


def _slowed(measured: ConfigurationProfile, speed: float) -> ConfigurationProfile:
    kernels = tuple(
        k.model_copy(update={"median_us": k.median_us / speed, "p90_us": k.p90_us / speed}) for k in measured.kernels
    )
    return measured.model_copy(update={"kernels": kernels, "network_us": measured.network_us / speed})
