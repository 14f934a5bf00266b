"""Fold trained spectral changes back into the weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import fx, nn

from cospipe.ir.adapters import delta_nodes
from cospipe.ir.errors import PassError, several
from cospipe.ir.graph import store_tensor, stored_tensor
from cospipe.ir.meta import Aspect
from cospipe.passes.base import Pass, PassResult

aten = torch.ops.aten


@dataclass(frozen=True)
class MergeAdapters(Pass):
    """Rewrite ``w + delta()`` to ``w'``, a new parameter under the name of ``w``, and remove the delta.

    Changes nothing in a graph without adapters. Does not rewrite anything when one merged weight would have
    elements that are not finite.
    """

    name: ClassVar[str] = "merge-adapters"
    rewrites: ClassVar[frozenset[Aspect]] = frozenset({Aspect.STRUCTURE, Aspect.WEIGHTS})

    def requires(self, graph_module: fx.GraphModule) -> None:
        """Raise PassError when an adapter is not on a weight edge as ``insert-adapters`` puts it."""
        wrong = [str(node.target) for node in delta_nodes(graph_module) if _edge(node) is None]
        if wrong:
            raise PassError(several("These adapters are not added to a stored weight and cannot be merged", wrong))

    def call(self, graph_module: fx.GraphModule) -> PassResult:
        """Compute every merged weight, check all of them, then rewrite."""
        deltas = delta_nodes(graph_module)
        merged = {delta: _merged(graph_module, delta) for delta in deltas}
        wrong = [_weight_name(delta) for delta, weight in merged.items() if not bool(torch.isfinite(weight).all())]
        if wrong:
            raise PassError(several("Merging gives infinite or undefined numbers in these weights", wrong))
        for delta, weight in merged.items():
            _replace(graph_module, delta, weight)
        return PassResult(graph_module, bool(deltas))

    def ensures(self, graph_module: fx.GraphModule) -> None:
        """Raise PassError when an adapter is left."""
        left = [str(node.target) for node in delta_nodes(graph_module)]
        if left:
            raise PassError(several("These adapters were not merged", left))


def _edge(delta: fx.Node) -> tuple[fx.Node, fx.Node] | None:
    """Return the weight and the sum of an adapter, or None when it is used in another way."""
    users = list(delta.users)
    if len(users) != 1 or users[0].target is not aten.add.Tensor or len(users[0].args) != 2:
        return None
    weight = users[0].args[0]
    if not isinstance(weight, fx.Node) or weight.op != "get_attr":
        return None
    return weight, users[0]


def _weight_name(delta: fx.Node) -> str:
    edge = _edge(delta)
    assert edge is not None
    return str(edge[0].target)


def _merged(graph_module: fx.GraphModule, delta: fx.Node) -> torch.Tensor:
    weight = stored_tensor(graph_module, _weight_name(delta))
    with torch.no_grad():
        change: torch.Tensor = graph_module.get_submodule(str(delta.target))()
        return weight.detach() + change


def _replace(graph_module: fx.GraphModule, delta: fx.Node, value: torch.Tensor) -> None:
    edge = _edge(delta)
    assert edge is not None
    weight, adapted = edge
    store_tensor(graph_module, str(weight.target), nn.Parameter(value, requires_grad=False))
    adapted.replace_all_uses_with(weight)
    graph_module.graph.erase_node(adapted)
    graph_module.graph.erase_node(delta)
    graph_module.delete_submodule(str(delta.target))
