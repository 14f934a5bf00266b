"""From a node to its :class:`~cospipe.ir.layer.LayerDescriptor`."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import fx
from torch.utils._pytree import tree_leaves

from cospipe.ir.fusion import joined_nodes
from cospipe.ir.layer import LayerDescriptor, LayerKind
from cospipe.ir.layer_sizes import LayerSize, size_of

_FREE = LayerSize(LayerKind.RESHAPE, gemm_n=0, is_view=True)


def describe(node: fx.Node) -> LayerDescriptor:
    """Return the descriptor of one node that calls something; for a whole graph take :func:`describe_graph`."""
    return describe_graph(node.graph)[node]


def describe_graph(graph: fx.Graph) -> dict[fx.Node, LayerDescriptor]:
    """Return the descriptor of every ``call_function`` and ``call_module`` node, in graph order.

    Bytes of a node are those compiled code moves: a view, a ``getitem`` or a change of memory layout alone moves
    none; slices read only what they keep; a node fused into another reads only what that kernel does not have yet.
    ``weight_bytes`` counts parameters, buffers and what is computed from these alone; that itself costs nothing, as
    it is computed when a stage loads its weights.
    """
    sizes = {node: size_of(node) for node in graph.nodes if node.op in ("call_function", "call_module")}
    joined = joined_nodes(graph, {node: size.kind for node, size in sizes.items()})
    weights = _weights(graph)
    sizes |= {node: _FREE for node in sizes if node in weights}
    return {node: _descriptor(node, size, joined.get(node), weights) for node, size in sizes.items()}


def _weights(graph: fx.Graph) -> set[fx.Node]:
    weights: set[fx.Node] = set()
    for node in graph.nodes:
        is_computed = node.op in ("call_function", "call_module")
        if node.op == "get_attr" or (is_computed and weights.issuperset(node.all_input_nodes)):
            weights.add(node)
    return weights


def _descriptor(
    node: fx.Node, size: LayerSize, joined: tuple[fx.Node, fx.Node] | None, weights: set[fx.Node]
) -> LayerDescriptor:
    head, previous = joined or (None, None)
    read = [source for source in node.all_input_nodes if source is not previous]
    output_bytes = 0 if size.is_view else _bytes([node])
    input_bytes = _input_bytes(size, [source for source in read if source not in weights], output_bytes)
    return LayerDescriptor(
        kind=size.kind,
        gemm_n=size.gemm_n,
        gemm_k=size.gemm_k,
        gemm_m=size.gemm_m,
        macs=size.macs,
        input_bytes=input_bytes,
        weight_bytes=0 if size.is_view else _bytes(source for source in read if source in weights),
        output_bytes=output_bytes,
        groups=size.groups,
        stride=size.stride,
        fused_into=head.name if head is not None else None,
        kernel=size.kernel,
        output_size=size.output_size,
        dilation=size.dilation,
    )


def _input_bytes(size: LayerSize, read: list[fx.Node], output_bytes: int) -> int:
    if size.is_view:
        return 0
    whole = _bytes(read)
    return min(whole, output_bytes) if size.kind is LayerKind.RESHAPE else whole


def _bytes(nodes: Iterable[fx.Node]) -> int:
    tensors = [leaf for node in nodes for leaf in tree_leaves(node.meta["val"]) if isinstance(leaf, torch.Tensor)]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
