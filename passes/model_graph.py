"""The model graph: what a pipeline can be cut into, as a networkx graph of units, and an order that keeps cuts cheap.

Attributes of the :class:`networkx.DiGraph`:

* a *unit* (compute nodes that must stay in one stage) is named after its most expensive node and has ``nodes`` (names
  of its graph nodes, in graph order) and, for each core configuration at the highest clock, ``time_us`` (microseconds),
  ``clock_bound_us`` (the part of them that shrinks with the clock) and ``crowded_us`` (the time when the rest of the
  cluster is busy with other stages); ``weight_bytes``, and ``tensor_bytes``, the most that one of its nodes reads and
  writes;
* a *graph input* is named after its placeholder and has ``is_input=True``;
* an edge has ``values``: name and bytes of each tensor that the second unit reads from the first.
"""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

import networkx as nx
import torch
from torch import fx

from cospipe.ir.annotations import LATENCY, LAYER
from cospipe.ir.errors import PassError, several
from cospipe.ir.plan import CoreConfiguration


def model_graph(graph: fx.Graph) -> nx.DiGraph[str]:
    """Build the model graph of an annotated graph.

    Nodes that must not be cut apart are merged into one unit:

    * a layer and the layers its kernel computes on the fly (``LayerDescriptor.fused_into``);
    * a node whose result is not one tensor, and its readers;
    * a node that depends on weights alone, and its first reader;
    * whatever lies on a path between two nodes of one unit, so that the units have no cycle.

    Weights (``get_attr``) are no units: they belong to the nodes that read them. The graph must be one that
    :func:`check_annotated` accepts.
    """
    units = _units(graph)
    unit_of = {node: unit for unit, nodes in units.items() for node in nodes}
    model: nx.DiGraph[str] = nx.DiGraph()
    model.add_nodes_from((node.name, {"is_input": True}) for node in graph.find_nodes(op="placeholder"))
    for unit, nodes in units.items():
        model.add_node(unit, nodes=tuple(node.name for node in nodes), **_unit_values(nodes))
    for node in graph.nodes:
        if node.op == "placeholder" or node in unit_of:
            _add_value(model, node, unit_of)
    return model


def check_annotated(graph: fx.Graph) -> None:
    """Check that a graph has what :func:`model_graph` reads.

    Raises
    ------
    PassError
        Naming every node that lacks something.
    """
    calls = compute_nodes(graph)
    if not calls:
        raise PassError("The graph computes nothing; there is nothing to cut into stages.")
    names = {node.name for node in calls}
    problems = [
        f"{node.name} has no {LATENCY.name}; run the pass {LATENCY.writer}"
        for node in calls
        if LATENCY.get(node) is None and not _is_free(node)
    ]
    problems += [f"{node.name} has no shape in meta['val']; capture the model again" for node in _shapeless(graph)]
    problems += [
        f"{node.name} is computed by {_kernel(node)}, which is not in the graph; run the pass {LAYER.writer}"
        for node in calls
        if _kernel(node) not in names
    ]
    if problems:
        raise PassError(several("The graph cannot be cut into stages", problems))


def compute_nodes(graph: fx.Graph) -> list[fx.Node]:
    """Return the nodes that call something, in graph order."""
    return [node for node in graph.nodes if node.op.startswith("call_")]


def cheap_order(model: nx.DiGraph[str]) -> tuple[str, ...]:
    """Order the units so that few bytes are alive at every cut.

    Greedy: of the units whose producers are placed, take the one that leaves the fewest live bytes, then the one
    that comes first in the graph. In an inception block this means that all branches shrink their input before any
    of them grows again.
    """
    unread = _readers(model)
    missing = {unit: 0 for unit, is_input in model.nodes(data="is_input", default=False) if not is_input}
    missing.update(Counter(reader for producer, reader in model.edges if producer in missing))
    order: list[str] = []
    while missing:
        ready = [unit for unit, producers in missing.items() if not producers]
        best = min(ready, key=lambda unit: _live_bytes_change(model, unit, unread))
        for producer, edge in model.pred[best].items():
            for name in edge["values"]:
                unread[producer, name].discard(best)
        missing.pop(best)
        missing.update({reader: missing[reader] - 1 for reader in model.succ[best]})
        order.append(best)
    return tuple(order)


def _units(graph: fx.Graph) -> dict[str, list[fx.Node]]:
    calls = compute_nodes(graph)
    index = {node: number for number, node in enumerate(calls)}
    together: nx.DiGraph[fx.Node] = nx.DiGraph()
    together.add_nodes_from(calls)
    together.add_edges_from((read, node) for node in calls for read in node.all_input_nodes if read in index)
    for first, second in _bonds(graph):
        together.add_edges_from([(first, second), (second, first)])
    # A bond points both ways, so nodes that must stay together are exactly the strongly connected ones.
    groups = [sorted(group, key=index.__getitem__) for group in nx.strongly_connected_components(together)]
    named = [(max(group, key=_cost), group) for group in groups]
    return {head.name: group for head, group in sorted(named, key=lambda pair: index[pair[0]])}


def _bonds(graph: fx.Graph) -> Iterator[tuple[fx.Node, fx.Node]]:
    calls = {node.name: node for node in compute_nodes(graph)}
    index = {node: number for number, node in enumerate(calls.values())}
    constant = _weights_only(graph)
    for node in calls.values():
        readers = sorted(index.keys() & node.users.keys(), key=index.__getitem__)
        yield node, calls[_kernel(node)]
        if not isinstance(node.meta.get("val"), torch.Tensor):
            yield from ((node, reader) for reader in readers)
        elif node in constant and readers:
            yield node, readers[0]


def _weights_only(graph: fx.Graph) -> set[fx.Node]:
    constant: set[fx.Node] = set()
    for node in graph.nodes:
        if node.op == "get_attr" or (node.op.startswith("call_") and constant.issuperset(node.all_input_nodes)):
            constant.add(node)
    return constant


def _kernel(node: fx.Node) -> str:
    layer = LAYER.get(node)
    return layer.fused_into if layer is not None and layer.fused_into else node.name


def _is_free(node: fx.Node) -> bool:
    return node.target is operator.getitem


def _unit_values(nodes: list[fx.Node]) -> dict[str, object]:
    layers = [layer for node in nodes if (layer := LAYER.get(node)) is not None]
    return {
        "time_us": _sum_of_tables(map(_latency, nodes)),
        "clock_bound_us": _sum_of_tables(map(_clock_bound, nodes)),
        "crowded_us": _sum_of_tables(map(_crowded, nodes)),
        "weight_bytes": sum(layer.weight_bytes for layer in layers),
        "tensor_bytes": max((layer.input_bytes + layer.output_bytes for layer in layers), default=0),
    }


def _clock_bound(node: fx.Node) -> Mapping[CoreConfiguration, float]:
    return {c: prediction.time_us * prediction.clock_bound for c, prediction in (LATENCY.get(node) or {}).items()}


def _crowded(node: fx.Node) -> Mapping[CoreConfiguration, float]:
    return {c: prediction.time_us * prediction.crowding for c, prediction in (LATENCY.get(node) or {}).items()}


def _latency(node: fx.Node) -> Mapping[CoreConfiguration, float]:
    return {configuration: prediction.time_us for configuration, prediction in (LATENCY.get(node) or {}).items()}


def _cost(node: fx.Node) -> float:
    return max(_latency(node).values(), default=0.0)


def _sum_of_tables(tables: Iterable[Mapping[CoreConfiguration, float]]) -> dict[CoreConfiguration, float]:
    total: dict[CoreConfiguration, float] = {}
    for table in tables:
        for configuration, time_us in table.items():
            total[configuration] = total.get(configuration, 0.0) + time_us
    return total


def _shapeless(graph: fx.Graph) -> list[fx.Node]:
    inputs = [node for node in graph.find_nodes(op="placeholder") if not isinstance(node.meta.get("val"), torch.Tensor)]
    return inputs + [node for node in compute_nodes(graph) if "val" not in node.meta]


def _add_value(model: nx.DiGraph[str], node: fx.Node, unit_of: Mapping[fx.Node, str]) -> None:
    producer = unit_of.get(node, node.name)
    tensor = node.meta["val"]
    for reader in node.users:
        unit = unit_of.get(reader, producer)
        if unit == producer:
            continue
        if not model.has_edge(producer, unit):
            model.add_edge(producer, unit, values={})
        model.edges[producer, unit]["values"][node.name] = tensor.numel() * tensor.element_size()


def _readers(model: nx.DiGraph[str]) -> dict[tuple[str, str], set[str]]:
    readers: dict[tuple[str, str], set[str]] = {}
    for producer, reader, edge in model.edges(data=True):
        for name in edge["values"]:
            readers.setdefault((producer, name), set()).add(reader)
    return readers


def _live_bytes_change(model: nx.DiGraph[str], unit: str, unread: Mapping[tuple[str, str], set[str]]) -> int:
    written: dict[str, int] = {}
    for edge in model.succ[unit].values():
        written.update(edge["values"])
    freed: list[int] = [
        size
        for producer, edge in model.pred[unit].items()
        for name, size in edge["values"].items()
        if unread[producer, name] == {unit}
    ]
    return sum(written.values()) - sum(freed)
