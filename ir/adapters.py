"""Where the adapters of a graph are."""

from __future__ import annotations

from torch import fx

from cospipe.ir.spectral_delta import SpectralDelta


def delta_nodes(graph_module: fx.GraphModule) -> list[fx.Node]:
    """Return the nodes that call a spectral delta, in graph order."""
    modules = dict(graph_module.named_modules(remove_duplicate=False))
    return [
        node
        for node in graph_module.graph.nodes
        if node.op == "call_module" and isinstance(modules.get(str(node.target)), SpectralDelta)
    ]
