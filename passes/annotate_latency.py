"""The predicted time of each node on every core configuration of a chip."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import fx

from cospipe.ir.annotations import LATENCY, LATENCY_SOC_KEY, LAYER
from cospipe.ir.latency import AnalyticLatencyModel
from cospipe.ir.soc import load_soc
from cospipe.passes.base import Pass, PassResult


@dataclass(frozen=True)
class AnnotateLatency(Pass):
    """Set :data:`~cospipe.ir.annotations.LATENCY` on every node that calls a function or a module.

    Times come from :class:`~cospipe.ir.latency.AnalyticLatencyModel`. Needs ``annotate-layers``.

    Parameters
    ----------
    soc : str
        Name of a described SoC, or a TOML file.
    """

    soc: str = "hikey970"

    name: ClassVar[str] = "annotate-latency"

    def requires(self, graph_module: fx.GraphModule) -> None:
        """Raise PassError when a node has no layer description."""
        for node in graph_module.graph.nodes:
            if node.op in ("call_function", "call_module"):
                LAYER.require(node)

    def call(self, graph_module: fx.GraphModule) -> PassResult:
        """Predict every node; ``modified`` says whether any prediction is new."""
        model = AnalyticLatencyModel(load_soc(self.soc))
        configurations = model.soc.configurations()
        modified = graph_module.meta.get(LATENCY_SOC_KEY) != model.soc.name
        graph_module.meta[LATENCY_SOC_KEY] = model.soc.name
        for node in graph_module.graph.nodes:
            layer = LAYER.get(node)
            if layer is None:
                continue
            table = {configuration: model.predict_us(layer, configuration) for configuration in configurations}
            modified |= LATENCY.get(node) != table
            LATENCY.set(node, table)
        return PassResult(graph_module, modified)
