"""One number for what a network computes, whatever its weights are."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import torch
from torch import fx
from torch.utils._pytree import tree_map


def graph_fingerprint(graph: fx.Graph) -> str:
    """Return the SHA-256 of a captured graph as 64 hexadecimal digits.

    Operations, their names, options and edges count, and the shapes and types of all values; the values of weights and
    the names of parameters do not. What is computed from weights alone counts as a weight: it runs once, when a stage
    loads, so a network with adapters to fold then has the fingerprint of the network without.

    Parameters
    ----------
    graph : fx.Graph
        A captured graph, batch norm folded as everywhere in this project.
    """
    numbers: dict[fx.Node, Any] = {}
    lines: list[Any] = []
    for node in graph.nodes:
        if _is_weight(node, numbers):
            numbers[node] = ["weight", _shapes(node)]
            continue
        numbers[node] = len(lines)
        name = node.name if node.op in ("call_function", "call_module") else ""
        lines.append([node.op, _target(node), name, _plain((node.args, node.kwargs), numbers), _shapes(node)])
    return hashlib.sha256(json.dumps(lines, sort_keys=True).encode()).hexdigest()


def _is_weight(node: fx.Node, numbers: dict[fx.Node, Any]) -> bool:
    if node.op == "get_attr":
        return True
    is_computed = node.op in ("call_function", "call_module")
    return is_computed and all(isinstance(numbers[source], list) for source in node.all_input_nodes)


def _target(node: fx.Node) -> str:
    return str(node.target) if node.op in ("call_function", "call_module") else ""


def _plain(arguments: Any, numbers: dict[fx.Node, Any]) -> Any:
    return tree_map(lambda leaf: {"value": numbers[leaf]} if isinstance(leaf, fx.Node) else str(leaf), arguments)


def _shapes(node: fx.Node) -> Any:
    return tree_map(_shape, node.meta.get("val"))


def _shape(value: Any) -> str:
    return f"{tuple(value.shape)} {value.dtype}" if isinstance(value, torch.Tensor) else type(value).__name__
