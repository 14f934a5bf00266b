"""Which node of a captured graph each binding of Relax computes a part of.

An attribute of ``main`` keeps it, by the names of variables: Relax passes keep the name of a variable that they bind to
something else, and what they bind before it, to variables with names of their own, belongs to the same node.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import fx
from tvm import relax

_SOURCES = "cospipe.sources"


def with_sources(function: relax.Function, sources: Mapping[str, str]) -> relax.Function:
    """Return a function that knows the node behind each of its variables; both are given by name."""
    return function.with_attr(_SOURCES, dict(sources))


def bindings_with_sources(function: relax.Function) -> list[tuple[relax.Binding, str]]:
    """Return the bindings of a function in order, each with the name of its node; empty where nobody noted one."""
    known = (function.attrs or {}).get(_SOURCES, {})
    bindings = [binding for block in function.body.blocks for binding in block.bindings]
    source, found = "", []
    for binding in reversed(bindings):
        source = str(known.get(binding.var.name, source))
        found.append((binding, source))
    return found[::-1]


def imported_sources(values: Mapping[fx.Node, Any], graph: fx.Graph) -> dict[str, str]:
    """Return the node of a graph behind each Relax variable that was imported from the graph's exported program.

    Parameters
    ----------
    values : mapping of Node to Expr
        What each node of the exported program became, in order.
    graph : fx.Graph
        What was exported.
    """
    sources: dict[str, str] = {}
    for node, value in values.items():
        if node.op == "call_function":
            for variable in _variables(value):
                sources.setdefault(variable.name, _origin(node, graph))
    return sources


def _variables(value: Any) -> Iterator[relax.Var]:
    if isinstance(value, relax.Var):
        yield value
    elif isinstance(value, (tuple, list, relax.Tuple)):
        for part in value:
            yield from _variables(part)


def _origin(node: fx.Node, graph: fx.Graph) -> str:
    """Return the name of the node of ``graph`` that export made a node from; of several, the last."""
    steps = list(node.meta.get("from_node", ()))
    while steps:
        step = steps.pop()
        if step.graph_id == id(graph):
            return str(step.name)
        steps += step.from_node
    return node.name
