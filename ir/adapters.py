"""Where the adapters of a graph are."""

from __future__ import annotations

from torch import fx, nn

from cospipe.ir.load_time_fold import LoadTimeFold
from cospipe.ir.spectral_delta import SpectralDelta


def delta_nodes(graph_module: fx.GraphModule) -> list[fx.Node]:
    """Return the nodes that call a spectral delta, in graph order."""
    return _calls_of(SpectralDelta, graph_module)


def fold_nodes(graph_module: fx.GraphModule) -> list[fx.Node]:
    """Return the nodes that fold an adapter into a weight when it is loaded, in graph order."""
    return _calls_of(LoadTimeFold, graph_module)


def _calls_of(kind: type[nn.Module], graph_module: fx.GraphModule) -> list[fx.Node]:
    modules = dict(graph_module.named_modules(remove_duplicate=False))
    return [
        node
        for node in graph_module.graph.nodes
        if node.op == "call_module" and isinstance(modules.get(str(node.target)), kind)
    ]
