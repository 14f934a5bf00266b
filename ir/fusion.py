"""Which nodes are computed on the fly by the kernel of another node.

Rules:

* an elementwise operation (or a batch norm in eval mode) joins the node before it when that node is a layer with a
  matrix product, attention, another elementwise operation, or has itself joined one of these, when nobody else reads
  that node, and when both results have the same shape. With two such nodes it joins the later one.
* a ``getitem`` joins the node whose tuple it reads.

Because each node inside a group but the last is read by its follower only, contracting a group to one node never
makes a cycle.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from operator import getitem

import torch
from torch import fx

from cospipe.ir.layer import LayerKind

_HEADS = frozenset(
    {
        LayerKind.CONV,
        LayerKind.POINTWISE_CONV,
        LayerKind.DEPTHWISE_CONV,
        LayerKind.GROUPED_CONV,
        LayerKind.TRANSPOSED_CONV,
        LayerKind.LINEAR,
        LayerKind.MATMUL,
        LayerKind.ATTENTION,
        LayerKind.ELEMENTWISE,
    }
)

aten = torch.ops.aten

_EVAL_BATCH_NORMS = frozenset({aten._native_batch_norm_legit_no_training.default, aten.batch_norm.default})


def joined_nodes(graph: fx.Graph, kinds: Mapping[fx.Node, LayerKind]) -> dict[fx.Node, tuple[fx.Node, fx.Node]]:
    """Return what each fused node joins.

    Parameters
    ----------
    graph : fx.Graph
        A captured graph.
    kinds : mapping of Node to LayerKind
        Of every node that calls something.

    Returns
    -------
    dict of Node to (Node, Node)
        The node whose kernel computes it, and the node right before it in that kernel.
    """
    joined: dict[fx.Node, tuple[fx.Node, fx.Node]] = {}
    heads: dict[fx.Node, fx.Node] = {}  # nodes that a follower may join, with the head of their group
    for node, kind in kinds.items():
        previous = _node_to_join(node, kind, heads)
        if previous is not None:
            head = joined[previous][0] if previous in joined else previous
            joined[node] = (head, previous)
        if kind in _HEADS and node not in joined:
            heads[node] = node
        elif previous is not None and previous in heads and len(previous.users) == 1:
            heads[node] = heads[previous]
    return joined


def _node_to_join(node: fx.Node, kind: LayerKind, heads: Mapping[fx.Node, fx.Node]) -> fx.Node | None:
    if node.target is getitem:
        return node.all_input_nodes[0]
    if kind is not LayerKind.ELEMENTWISE and node.target not in _EVAL_BATCH_NORMS:
        return None
    return max(_candidates(node, heads), default=None)


def _candidates(node: fx.Node, heads: Mapping[fx.Node, fx.Node]) -> Iterator[fx.Node]:
    for previous in node.all_input_nodes:
        if previous in heads and len(previous.users) == 1 and _shape(previous) == _shape(node):
            yield previous


def _shape(node: fx.Node) -> torch.Size:
    value = node.meta["val"]
    return value.shape if isinstance(value, torch.Tensor) else value[0].shape
