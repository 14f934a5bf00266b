"""The PyTorch module an ONNX graph becomes: one submodule a node, weights under their own names."""

from __future__ import annotations

import operator
import re
from collections.abc import Sequence
from typing import Any

from torch import Tensor, fx, nn

from cospipe.backends.onnx.node import Computation
from cospipe.backends.onnx.values import KnownValue


class OnnxOperation(nn.Module):
    """One node of an ONNX file, called with the tensors of its inputs."""

    def __init__(self, operation: str, computation: Computation) -> None:
        super().__init__()
        self._operation = operation
        self._computation = computation

    def forward(self, *inputs: Tensor | None) -> Tensor | tuple[Tensor, ...]:
        """Compute the node's output, or its outputs."""
        return self._computation(*inputs)

    def extra_repr(self) -> str:
        """Return the operation's name in ONNX."""
        return self._operation


class NetworkBuilder:
    """Collects the nodes of a network and makes a module of them.

    The module's ``forward`` has the inputs' own names where Python allows these. A floating-point weight of the file is
    a parameter under its own name; every other constant, a single number too, is a buffer.
    """

    def __init__(self) -> None:
        self._root = nn.Module()
        self._graph = fx.Graph()
        self._stored: dict[int, fx.Node] = {}

    def add_input(self, name: str) -> fx.Node:
        """Return the node of a new input."""
        taken = {str(node.target) for node in self._graph.find_nodes(op="placeholder")}
        return self._graph.placeholder(_free(identifier(name), taken))

    def stored(self, value: KnownValue) -> fx.Node:
        """Return the node that reads a known value; it is stored when it is first read."""
        if id(value) not in self._stored:
            path = self._free_path(value.name)
            holder, name = self._container(path)
            if value.is_weight and value.tensor.is_floating_point() and value.tensor.dim() > 0:
                holder.register_parameter(name, nn.Parameter(value.tensor))
            else:
                holder.register_buffer(name, value.tensor)
            self._stored[id(value)] = self._graph.get_attr(path)
        return self._stored[id(value)]

    def add_operation(
        self, name: str, operation: str, computation: Computation, inputs: Sequence[fx.Node | None]
    ) -> fx.Node:
        """Return the node that calls a computation, which becomes a submodule of that name."""
        path = self._free_path(name, operation)
        holder, last = self._container(path)
        holder.add_module(last, OnnxOperation(operation, computation))
        return self._graph.call_module(path, tuple(inputs))

    def part(self, result: fx.Node, position: int) -> fx.Node:
        """Return the node of one of several results of an operation."""
        return self._graph.call_function(operator.getitem, (result, position))

    def finish(self, outputs: Sequence[fx.Node]) -> fx.GraphModule:
        """Return the module, which gives the outputs as a tuple."""
        self._graph.output(tuple(outputs))
        return fx.GraphModule(self._root, self._graph, class_name="OnnxNetwork").eval()

    def _free_path(self, name: str, suffix: str = "") -> str:
        path = module_path_of(name)
        if self._is_free(path):
            return path
        longer = f"{path}.{identifier(suffix)}" if suffix else path
        number = 1
        while not self._is_free(longer):
            longer, number = f"{path}_{number}", number + 1
        return longer

    def _is_free(self, path: str) -> bool:
        holder: Any = self._root
        *parents, last = path.split(".")
        for parent in parents:
            if not hasattr(holder, parent):
                return True
            holder = getattr(holder, parent)
            if not isinstance(holder, nn.Module):
                return False
        return not hasattr(holder, last)

    def _container(self, path: str) -> tuple[nn.Module, str]:
        holder = self._root
        *parents, last = path.split(".")
        for parent in parents:
            if not hasattr(holder, parent):
                holder.add_module(parent, nn.Module())
            holder = getattr(holder, parent)
        return holder, last


def module_path_of(name: str) -> str:
    """Return the module path of a node or weight, ``/layer1/conv/Conv`` as ``layer1.conv.Conv``."""
    parts = [re.sub(r"\W", "_", part, flags=re.ASCII) for part in re.split(r"[./]", name) if part]
    return ".".join(f"{part}_" if hasattr(nn.Module(), part) else part for part in parts) or "unnamed"


def identifier(name: str) -> str:
    """Return a name as Python can use it for an argument."""
    text = re.sub(r"\W", "_", name, flags=re.ASCII)
    return text if text.isidentifier() else f"_{text}"


def _free(name: str, taken: set[str]) -> str:
    number, free = 1, name
    while free in taken:
        free, number = f"{name}_{number}", number + 1
    return free
