"""What each node costs, independent of any chip."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import fx

from cospipe.ir.annotations import LAYER
from cospipe.ir.describe import describe_graph
from cospipe.passes.base import Pass, PassResult


@dataclass(frozen=True)
class AnnotateLayers(Pass):
    """Set :data:`~cospipe.ir.annotations.LAYER` on every node that calls a function or a module.

    Does not touch placeholders, parameters and the output. The graph itself stays as it is.
    """

    name: ClassVar[str] = "annotate-layers"

    def call(self, graph_module: fx.GraphModule) -> PassResult:
        """Describe every node; ``modified`` says whether any description is new."""
        modified = False
        for node, layer in describe_graph(graph_module.graph).items():
            modified |= LAYER.get(node) != layer
            LAYER.set(node, layer)
        return PassResult(graph_module, modified)
