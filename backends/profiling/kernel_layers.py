"""From the kernels a compiled network calls to the layers they are: which nodes each computes, and its size.

Every node of a graph belongs to at most one layer, and every kernel to exactly one:

* kernels that compute parts of the same node are one layer (attention: two products and a softmax);
* a node that no kernel names (a concatenation that the next layer reads in place, a transposition) belongs to the first
  kernel that needs it; a kernel that only copies is the layer of these nodes, if there are any that move bytes;
* a kernel that only changes the memory layout belongs to the node that needs it.

Nodes that move no byte (views) and what is computed from weights alone belong to no layer.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import fx
from torch.utils._pytree import tree_leaves

from cospipe.ir.describe import describe_graph
from cospipe.ir.layer import LayerDescriptor


@dataclass(frozen=True)
class NamedKernel:
    """A kernel that a compiled network calls: the nodes it computes, by name, and whether it only copies."""

    nodes: tuple[str, ...]
    only_copies: bool = False


@dataclass(frozen=True)
class KernelLayer:
    """One layer of a compiled network.

    Parameters
    ----------
    nodes : tuple of str
        The nodes it computes, the one that ``layer`` describes first.
    layer : LayerDescriptor
        Its size; ``input_bytes`` and ``weight_bytes`` count what the other nodes read in addition.
    kernels : tuple of int
        Places of its kernels in the order they are called.
    """

    nodes: tuple[str, ...]
    layer: LayerDescriptor
    kernels: tuple[int, ...]


def kernel_layers(graph: fx.Graph, kernels: Sequence[NamedKernel]) -> tuple[KernelLayer, ...]:
    """Return the layers of a compiled network in the order of their first kernels.

    Parameters
    ----------
    graph : fx.Graph
        What was compiled.
    kernels : sequence of NamedKernel
        What it calls, in order.
    """
    layers = describe_graph(graph)
    by_name = {node.name: node for node in graph.nodes}
    claimed = _with_neighbours(_claimed(kernels, by_name, layers))
    return tuple(_layer([by_name[name] for name in nodes], places, layers) for nodes, places in _joined(claimed))


def _claimed(
    kernels: Sequence[NamedKernel], by_name: Mapping[str, fx.Node], layers: Mapping[fx.Node, LayerDescriptor]
) -> list[list[str]]:
    """Return the nodes of each kernel, with those that no kernel names."""
    named = {name for kernel in kernels for name in kernel.nodes}
    left = {node for node, layer in layers.items() if node.name not in named and layer.total_bytes}
    claimed: list[list[str]] = []
    for place, kernel in enumerate(kernels):
        known = [by_name[name] for name in kernel.nodes if name in by_name]
        needed = [node.name for node in _needed(known, named) if node in left]
        left -= {by_name[name] for name in needed}
        is_needed_again = any(set(kernel.nodes) & set(later.nodes) for later in kernels[place + 1 :])
        if kernel.only_copies and needed and is_needed_again:
            claimed.append(needed)
        else:
            claimed.append([*(node.name for node in known), *needed])
    return claimed


def _with_neighbours(claimed: Sequence[list[str]]) -> list[list[str]]:
    """Give a kernel without nodes those of the next kernel that has some, or of the last one."""
    found, following = list(claimed), next((nodes for nodes in reversed(claimed) if nodes), [])
    for place in reversed(range(len(found))):
        following = found[place] or following
        found[place] = following
    return found


def _needed(nodes: Iterable[fx.Node], named: set[str]) -> Iterator[fx.Node]:
    """Yield the nodes that no kernel names and that some nodes read, directly or through other such nodes."""
    waiting, seen = [source for node in nodes for source in node.all_input_nodes], set[fx.Node]()
    while waiting:
        node = waiting.pop()
        if node.name in named or node in seen:
            continue
        seen.add(node)
        yield node
        waiting += node.all_input_nodes


def _joined(claimed: Sequence[Sequence[str]]) -> list[tuple[list[str], list[int]]]:
    """Join kernels that share a node; return the nodes and places of each group."""
    groups: list[tuple[list[str], list[int]]] = []
    for place, nodes in enumerate(claimed):
        sharing = [group for group in groups if not set(group[0]).isdisjoint(nodes)]
        first = sharing[0] if sharing else ([], [])
        for other in sharing[1:]:
            groups.remove(other)
            first[0].extend(other[0])
            first[1].extend(other[1])
        if not sharing:
            groups.append(first)
        first[0].extend(name for name in nodes if name not in first[0])
        first[1].append(place)
    return groups


def _layer(nodes: list[fx.Node], places: list[int], layers: Mapping[fx.Node, LayerDescriptor]) -> KernelLayer:
    head = max(nodes, key=lambda node: (*_importance(layers[node]), node))
    others = [node for node in nodes if node is not head]
    inputs, weights = _extra_bytes(head, others, layers)
    described = layers[head]
    layer = replace(
        described,
        input_bytes=described.input_bytes + inputs,
        weight_bytes=described.weight_bytes + weights,
        fused_into=None,
    )
    return KernelLayer((head.name, *(node.name for node in others)), layer, tuple(sorted(places)))


def _importance(layer: LayerDescriptor) -> tuple[bool, int, int]:
    """Order layers by how much they say about their kernel."""
    return layer.fused_into is None, layer.macs, layer.total_bytes


def _extra_bytes(
    head: fx.Node, others: Sequence[fx.Node], layers: Mapping[fx.Node, LayerDescriptor]
) -> tuple[int, int]:
    """Return the bytes that nodes behind the head read in addition, each value once: of other layers, and of weights.

    What nodes before the head read is what the head is said to read.
    """
    inside = {head, *others, *head.all_input_nodes}
    read = [source for node in others if node > head for source in node.all_input_nodes]
    inputs = weights = 0
    for source in dict.fromkeys(_stored(node, layers) for node in read):
        if source in inside:
            continue
        if _depends_on_input(source):
            inputs += _bytes(source)
        else:
            weights += _bytes(source)
    return inputs, weights


def _stored(node: fx.Node, layers: Mapping[fx.Node, LayerDescriptor]) -> fx.Node:
    """Return the node whose bytes a view shows."""
    while node in layers and not layers[node].total_bytes and len(node.all_input_nodes) == 1:
        node = node.all_input_nodes[0]
    return node


def _depends_on_input(node: fx.Node) -> bool:
    waiting, seen = [node], set[fx.Node]()
    while waiting:
        one = waiting.pop()
        if one.op == "placeholder":
            return True
        if one not in seen:
            seen.add(one)
            waiting += one.all_input_nodes
    return False


def _bytes(node: fx.Node) -> int:
    tensors = [leaf for leaf in tree_leaves(node.meta["val"]) if isinstance(leaf, torch.Tensor)]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
