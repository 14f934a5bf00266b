"""Turn stage tags into one submodule a stage."""

from __future__ import annotations

import operator
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import fx, nn

from cospipe.ir.annotations import STAGE
from cospipe.ir.errors import PassError, several
from cospipe.passes.base import Pass, PassResult
from cospipe.passes.model_graph import compute_nodes

_STAGE_NAME = re.compile(r"stage\d+")


@dataclass(frozen=True)
class Split(Pass):
    """Build a parent module that calls one submodule a stage, ``stage0``, ``stage1`` ..., from the stage tags.

    * The compute nodes of a stage are copied, with names and metadata, into a graph of their own.
    * Its inputs are the tensors it reads from graph inputs and earlier stages, named after the nodes that produce
      them; its output is the tuple of the tensors that later stages or the graph's output read.
    * Parameters and buffers go to every stage that reads them, under their full names. Floating-point buffers become
      parameters that need no gradient, so that they travel as weights; buffers of other types stay buffers.
    * A module that a node calls is shared with the module that was split, not copied.
    * A tensor that skips stages goes straight from its producer to its readers in the parent graph.

    The module that was split is left as it was, and its metadata (the plan) is copied to the parent. A parent is not
    split again: nothing is done when every node already calls a stage.
    """

    name: ClassVar[str] = "split"

    def requires(self, graph_module: fx.GraphModule) -> None:
        """Raise PassError unless all compute nodes are tagged and only tensors flow, only to later stages."""
        if _is_split(graph_module.graph):
            return
        problems = list(_untagged(graph_module.graph)) or list(_illegal_cuts(graph_module.graph))
        if problems:
            raise PassError(several("The graph cannot be split into stages", problems))

    def call(self, graph_module: fx.GraphModule) -> PassResult:
        """Build the stages and the parent."""
        if _is_split(graph_module.graph):
            return PassResult(graph_module, False)
        weights = _Weights(graph_module)
        stages = {name: _Stage(name, nodes) for name, nodes in _nodes_of_stages(graph_module.graph).items()}
        modules: dict[str, Any] = {name: stage.module(weights) for name, stage in stages.items()}
        parent = _parent_graph(graph_module.graph, stages.values())
        modules.update({str(node.target): weights.get(node) for node in parent.find_nodes(op="get_attr")})
        result = fx.GraphModule(modules, parent, class_name=type(graph_module).__name__)
        result.meta.update(graph_module.meta)
        result.graph.lint()
        return PassResult(result, True)


def _is_split(graph: fx.Graph) -> bool:
    calls = [node for node in compute_nodes(graph) if node.target is not operator.getitem]
    return bool(calls) and all(node.op == "call_module" and _STAGE_NAME.fullmatch(str(node.target)) for node in calls)


def _untagged(graph: fx.Graph) -> Iterator[str]:
    for node in compute_nodes(graph):
        tag = STAGE.get(node)
        if tag is None:
            yield f"{node.name} has no {STAGE.name}; run the pass {STAGE.writer}"
        elif not _STAGE_NAME.fullmatch(tag):
            yield f"{node.name} is tagged {tag!r}; stages are called stage0, stage1, ..."


def _illegal_cuts(graph: fx.Graph) -> Iterator[str]:
    for node in compute_nodes(graph):
        stage = STAGE.require(node)
        outside = [reader for reader in node.users if STAGE.get(reader) != stage]
        for reader in outside:
            if reader.op != "output" and _number(reader) < _number(node):
                yield f"{reader.name} in {STAGE.get(reader)} reads {node.name} of {stage}, which runs later"
        if outside and not isinstance(node.meta.get("val"), torch.Tensor):
            yield f"{node.name} is not one tensor, so {', '.join(r.name for r in outside)} must be in {stage} as well"


def _number(node: fx.Node) -> int:
    return int(STAGE.require(node).removeprefix("stage"))


def _nodes_of_stages(graph: fx.Graph) -> dict[str, list[fx.Node]]:
    stages: dict[str, list[fx.Node]] = {}
    for node in sorted(compute_nodes(graph), key=_number):
        stages.setdefault(STAGE.require(node), []).append(node)
    return stages


class _Weights:
    """What the nodes of a graph name by target; float buffers are turned into parameters once, however often read."""

    def __init__(self, graph_module: fx.GraphModule) -> None:
        self._root = graph_module
        self._known: dict[str, Any] = {}

    def get(self, node: fx.Node) -> Any:
        name = str(node.target)
        if name not in self._known:
            self._known[name] = _as_weight(operator.attrgetter(name)(self._root))
        return self._known[name]


def _as_weight(value: Any) -> Any:
    is_buffer = isinstance(value, torch.Tensor) and not isinstance(value, nn.Parameter)
    if is_buffer and (value.is_floating_point() or value.is_complex()):
        return nn.Parameter(value.detach(), requires_grad=False)
    return value


class _Stage:
    """The nodes of one stage, and the tensors that cross its borders."""

    def __init__(self, name: str, nodes: list[fx.Node]) -> None:
        self.name = name
        self.nodes = nodes
        inside = set(nodes)
        read = list(dict.fromkeys(read for node in nodes for read in node.all_input_nodes if read not in inside))
        self.inputs = [node for node in read if node.op != "get_attr"]
        self.weights = [node for node in read if node.op == "get_attr"]
        self.outputs = [node for node in nodes if not inside.issuperset(node.users)]

    def module(self, weights: _Weights) -> fx.GraphModule:
        graph = fx.Graph()
        copies = {node: _placeholder(graph, node) for node in self.inputs}
        for node in self.weights + self.nodes:
            copies[node] = graph.node_copy(node, copies.__getitem__)
        output = graph.output(tuple(copies[node] for node in self.outputs))
        output.meta["val"] = tuple(node.meta["val"] for node in self.outputs)
        named = [node for node in self.weights + self.nodes if node.op in ("get_attr", "call_module")]
        module = fx.GraphModule({str(node.target): weights.get(node) for node in named}, graph, class_name=self.name)
        module.graph.lint()
        return module


def _placeholder(graph: fx.Graph, node: fx.Node) -> fx.Node:
    placeholder = graph.create_node("placeholder", node.name, name=node.name)
    placeholder.meta["val"] = node.meta["val"]
    return placeholder


def _parent_graph(graph: fx.Graph, stages: Iterable[_Stage]) -> fx.Graph:
    parent = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    for node in graph.find_nodes(op="placeholder"):
        copies[node] = parent.node_copy(node)
    for stage in stages:
        call = parent.call_module(stage.name, tuple(copies[node] for node in stage.inputs))
        call.meta["val"] = tuple(node.meta["val"] for node in stage.outputs)
        for index, node in enumerate(stage.outputs):
            copies[node] = _item(parent, call, index, node)
    output = graph.output_node()
    for node in output.all_input_nodes:
        if node.op == "get_attr":
            copies[node] = parent.node_copy(node)
    parent.node_copy(output, copies.__getitem__)
    return parent


def _item(parent: fx.Graph, call: fx.Node, index: int, node: fx.Node) -> fx.Node:
    item = parent.create_node("call_function", operator.getitem, (call, index), name=node.name)
    item.meta["val"] = node.meta["val"]
    return item
