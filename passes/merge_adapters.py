"""Fold trained spectral changes into the weights: now, or when a device loads them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import fx, nn

from cospipe.ir.adapters import delta_nodes
from cospipe.ir.errors import PassError, UsageError, nearest, several
from cospipe.ir.graph import store_tensor, stored_tensor
from cospipe.ir.load_time_fold import LoadTimeFold
from cospipe.ir.meta import Aspect
from cospipe.passes.base import Pass, PassResult

aten = torch.ops.aten

_TIMES = ("compile", "load")


@dataclass(frozen=True)
class MergeAdapters(Pass):
    """Fold ``delta(w)`` into the weight and remove the delta, or keep it for the device to fold.

    * ``at=compile``: becomes ``w'``, a new parameter under the name of ``w``, computed once and exactly as in training.
    * ``at=load``: becomes ``fold(w)``, a :class:`~cospipe.ir.load_time_fold.LoadTimeFold` called as the delta was. Its
      places and coefficients are parameters beside the weight, so the compiled stage folds, when it loads its weights,
      whatever adapter it is given; an adapter may have as many coefficients on this weight as the delta has. Every
      reader of the weight gets a call of its own, so that no stage waits for another one's weight.

    Changes nothing in a graph without adapters. Does not rewrite anything when one merged weight would have
    elements that are not finite.

    Parameters
    ----------
    at : str
        ``"compile"`` or ``"load"``.
    """

    at: str = "compile"

    name: ClassVar[str] = "merge-adapters"
    rewrites: ClassVar[frozenset[Aspect]] = frozenset({Aspect.STRUCTURE, Aspect.WEIGHTS})

    def __post_init__(self) -> None:
        if self.at not in _TIMES:
            raise UsageError(
                f"merge-adapters folds at compile or at load time, not at={self.at}. {nearest(self.at, _TIMES)}"
            )

    def requires(self, graph_module: fx.GraphModule) -> None:
        """Raise PassError when an adapter is not on a weight edge as ``insert-adapters`` puts it."""
        wrong = [str(node.target) for node in delta_nodes(graph_module) if not _is_on_weight(node)]
        if wrong:
            raise PassError(several("These adapters are not on a stored weight and cannot be merged", wrong))

    def call(self, graph_module: fx.GraphModule) -> PassResult:
        """Compute every merged weight, check all of them, then rewrite."""
        deltas = delta_nodes(graph_module)
        merged = {delta: _merged(graph_module, delta) for delta in deltas}
        wrong = [_weight_name(delta) for delta, weight in merged.items() if not bool(torch.isfinite(weight).all())]
        if wrong:
            raise PassError(several("Merging gives infinite or undefined numbers in these weights", wrong))
        for delta, weight in merged.items():
            if self.at == "load":
                _keep_fold(graph_module, delta)
            else:
                _replace(graph_module, delta, weight)
        return PassResult(graph_module, bool(deltas))

    def ensures(self, graph_module: fx.GraphModule) -> None:
        """Raise PassError when an adapter is left."""
        left = [str(node.target) for node in delta_nodes(graph_module)]
        if left:
            raise PassError(several("These adapters were not merged", left))


def _is_on_weight(delta: fx.Node) -> bool:
    is_one_weight = len(delta.args) == 1 and isinstance(delta.args[0], fx.Node) and delta.args[0].op == "get_attr"
    return is_one_weight and set(delta.args[0].users) == {delta}  # type: ignore[union-attr]


def _weight_name(delta: fx.Node) -> str:
    return str(delta.all_input_nodes[0].target)


def _merged(graph_module: fx.GraphModule, delta: fx.Node) -> torch.Tensor:
    with torch.no_grad():
        merged: torch.Tensor = graph_module.get_submodule(str(delta.target))(
            stored_tensor(graph_module, _weight_name(delta))
        )
        return merged.detach()


def _replace(graph_module: fx.GraphModule, delta: fx.Node, value: torch.Tensor) -> None:
    store_tensor(graph_module, _weight_name(delta), nn.Parameter(value, requires_grad=False))
    delta.replace_all_uses_with(delta.all_input_nodes[0])
    graph_module.graph.erase_node(delta)
    graph_module.delete_submodule(str(delta.target))


def _keep_fold(graph_module: fx.GraphModule, delta: fx.Node) -> None:
    name = str(delta.target)
    fold = LoadTimeFold(graph_module.get_submodule(name), _weight_name(delta))  # type: ignore[arg-type]
    graph_module.delete_submodule(name)
    graph_module.add_submodule(name, fold)
    for reader in list(delta.users)[1:]:
        with graph_module.graph.inserting_after(delta):
            reader.replace_input_with(delta, graph_module.graph.node_copy(delta, lambda node: node))
