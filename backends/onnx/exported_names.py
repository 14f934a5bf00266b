"""Names of the nodes of an exported model: those of the graph it was exported from."""

from __future__ import annotations

import ast
import re
from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx_ir
    from torch import fx
    from torch.export import ExportedProgram

_SCOPES = "pkg.torch.onnx.name_scopes"
"""Where PyTorch's exporter notes the modules an ONNX node comes from, outermost first, and a node behind them."""
_MODULES = "nn_module_stack"


def note_graph_nodes(program: ExportedProgram, graph: fx.Graph) -> None:
    """Make every node of a graph the innermost module of what was exported from it.

    Export gives nodes new names, and taking operations apart again others; the stack of modules stays.
    """
    for node in program.graph.nodes:
        if node.op == "call_function":
            name = _origin(node, graph)
            node.meta[_MODULES] = {**(node.meta.get(_MODULES) or {}), f"node {name}": (name, "node")}


def name_nodes_after_graph(model: onnx_ir.Graph) -> None:
    """Call every node ``module.path/node`` as :func:`note_graph_nodes` noted it, and drop all other notes.

    The second, third, ... ONNX node of one graph node ends in ``.1``, ``.2``, ...; a node that comes from none keeps
    its name. What is dropped is lines of source code with the paths of the machine that exported them.
    """
    used: Counter[str] = Counter()
    for node in model.all_nodes():
        if name := _noted_name(node):
            node.name = f"{name}.{used[name]}" if used[name] else name
            used[name] += 1
        node.metadata_props.clear()


def graph_node_name(name: str) -> str:
    """Return the node of the graph that an exported node comes from, by its name or the module path made of that.

    ``conv2d`` of ``features.0/conv2d``, and of ``features.0.conv2d.1``, the second of its ONNX nodes.
    """
    parts = [part for part in re.split(r"[./]", name) if not part.isdecimal()]
    return parts[-1] if parts else name


def _origin(node: fx.Node, graph: fx.Graph) -> str:
    """Return the name of the node of ``graph`` that export made a node from."""
    steps = list(node.meta.get("from_node", ()))
    while steps:
        step = steps.pop()
        if step.graph_id == id(graph):
            return str(step.name)
        steps += step.from_node
    return node.name


def _noted_name(node: onnx_ir.Node) -> str:
    scopes = ast.literal_eval(node.metadata_props.get(_SCOPES, "[]"))
    return "/".join(filter(None, map(str, scopes[-3:-1])))
