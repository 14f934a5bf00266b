"""The predicted time of each node on every core configuration of a chip."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from torch import fx

from cospipe.ir.accelerator_latency import accelerator_us
from cospipe.ir.annotations import LATENCY, LATENCY_SOC_KEY, LAYER, LatencyTable
from cospipe.ir.crowding import Crowding
from cospipe.ir.graph_fingerprint import graph_fingerprint
from cospipe.ir.latency import LatencyPrediction, LatencySource
from cospipe.ir.latency_models import latency_model
from cospipe.ir.layer import LayerDescriptor
from cospipe.ir.soc import Soc, load_soc
from cospipe.passes.base import Pass, PassResult


@dataclass(frozen=True)
class AnnotateLatency(Pass):
    """Set :data:`~cospipe.ir.annotations.LATENCY` on every node that calls a function or a module.

    Needs ``annotate-layers``. For ``measured`` and ``emulated`` times batch norms must be folded already, as they were
    when the network was profiled.

    Parameters
    ----------
    soc : str
        Name of a described SoC, or a TOML file.
    source : str
        Where the times come from, see :func:`~cospipe.ir.latency_models.latency_model`: ``analytic``, ``regression``,
        ``measured`` or ``emulated``.
    profile : str
        The profile that the last three read.
    """

    soc: str = "hikey970"
    source: str = "analytic"
    profile: str = ""

    name: ClassVar[str] = "annotate-latency"

    def requires(self, graph_module: fx.GraphModule) -> None:
        """Raise PassError when a node has no layer description."""
        for node in graph_module.graph.nodes:
            if node.op in ("call_function", "call_module"):
                LAYER.require(node)

    def call(self, graph_module: fx.GraphModule) -> PassResult:
        """Predict every node; ``modified`` says whether any prediction is new."""
        soc = load_soc(self.soc)
        model = latency_model(soc, self.source, self.profile, graph_fingerprint(graph_module.graph))
        crowding = Crowding(soc)
        modified = graph_module.meta.get(LATENCY_SOC_KEY) != soc.name
        graph_module.meta[LATENCY_SOC_KEY] = soc.name
        for node in graph_module.graph.nodes:
            layer = LAYER.get(node)
            if layer is None:
                continue
            alone = {c: model.predict(layer, c, node.name) for c in soc.configurations()}
            table = {c: replace(found, crowding=crowding.factor(layer, c)) for c, found in alone.items()}
            table |= _on_accelerators(layer, soc)
            modified |= LATENCY.get(node) != table
            LATENCY.set(node, table)
        return PassResult(graph_module, modified)


def _on_accelerators(layer: LayerDescriptor, soc: Soc) -> LatencyTable:
    """Predict a layer on the accelerators that are modelled; for them there is the analytic model only."""
    table = {}
    for configuration in soc.accelerator_configurations():
        accelerator = soc.accelerator(configuration.cluster)
        assert accelerator is not None
        time_us = accelerator_us(layer, accelerator)
        table[configuration] = LatencyPrediction(time_us, LatencySource.ANALYTIC, clock_bound=0.0)
    return table
