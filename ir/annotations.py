"""All annotations of this project, in the order the passes write them."""

from __future__ import annotations

from collections.abc import Mapping

from torch import fx

from cospipe.ir.errors import PassError
from cospipe.ir.latency import LatencyPrediction
from cospipe.ir.layer import LayerDescriptor
from cospipe.ir.meta import Aspect, MetaKey
from cospipe.ir.plan import CoreConfiguration, PipelinePlan

LatencyTable = Mapping[CoreConfiguration, LatencyPrediction]
"""Predicted time of one node on each core configuration."""

LAYER: MetaKey[LayerDescriptor] = MetaKey("cospipe.layer", "annotate-layers", frozenset({Aspect.STRUCTURE}))
LATENCY: MetaKey[LatencyTable] = MetaKey("cospipe.latency", "annotate-latency", frozenset({Aspect.STRUCTURE}))
STAGE: MetaKey[str] = MetaKey("cospipe.stage", "partition", frozenset({Aspect.STRUCTURE}))

LATENCY_SOC_KEY = "cospipe.latency_soc"
"""Where ``GraphModule.meta`` keeps the name of the SoC its latencies were predicted for."""

PLAN_KEY = "cospipe.plan"
"""Where ``GraphModule.meta`` keeps the :class:`PipelinePlan` that belongs to the stage tags."""


def plan_of(graph_module: fx.GraphModule) -> PipelinePlan:
    """Return the plan of a partitioned graph, or of the pipeline it was split into.

    Raises
    ------
    PassError
        When there is none; the message names the pass to run first.
    """
    plan = graph_module.meta.get(PLAN_KEY)
    if not isinstance(plan, PipelinePlan):
        raise PassError(f"The graph has no pipeline plan; run the pass {STAGE.writer!r} first.")
    return plan
