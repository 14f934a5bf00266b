"""From an ONNX graph with known shapes to a PyTorch module.

Every value is either known when compiling or computed from the network's inputs. A node whose result depends on no
input is computed at once, by the rule that would otherwise translate it; so shapes, which are all known, and what is
computed from them leave no trace. The other nodes are called with fake tensors, which gives the shapes of their
results.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor, fx
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from cospipe.backends.onnx import control_flow
from cospipe.backends.onnx.attributes import attribute_values
from cospipe.backends.onnx.element_types import STORED_ONLY, element_type_name, torch_dtype
from cospipe.backends.onnx.input_shapes import graph_inputs
from cospipe.backends.onnx.network import NetworkBuilder
from cospipe.backends.onnx.node import Computation, OnnxNode, OnnxRuleError
from cospipe.backends.onnx.table import find_rule, operation_key
from cospipe.backends.onnx.values import ComputedValue, KnownValue, Scope, Value, tensor_of_proto
from cospipe.ir.errors import UnsupportedModelError, first_line


def import_model(model: onnx.ModelProto) -> fx.GraphModule:
    """Translate a model whose inputs have fixed shapes.

    Parameters
    ----------
    model : onnx.ModelProto
        Without local functions. Inputs with an initializer are constants.

    Returns
    -------
    fx.GraphModule
        Called with the inputs in their order, it returns a tuple of the graph's outputs.

    Raises
    ------
    UnsupportedModelError
        Listing every node that cannot be translated.
    """
    return _Importer(model).run(model.graph)


class _Importer:
    def __init__(self, model: onnx.ModelProto) -> None:
        self._problems: list[str] = []
        self._opsets = {
            "" if entry.domain == "ai.onnx" else entry.domain: entry.version for entry in model.opset_import
        }
        self._network = NetworkBuilder()
        self._fake_mode = FakeTensorMode(allow_non_fake_inputs=True)

    def run(self, graph: onnx.GraphProto) -> fx.GraphModule:
        scope: Scope = {declared.name: self._input(declared) for declared in graph_inputs(graph)}
        self.add_graph(graph, scope)
        if self._problems:
            raise UnsupportedModelError(self._problems)
        return self._network.finish([self._node_of(scope[output.name]) for output in graph.output])

    def add_graph(self, graph: onnx.GraphProto, scope: Scope, prefix: str = "") -> None:
        """Translate the nodes of a graph, or of a branch of one, whose values are added to the scope."""
        for tensor in graph.initializer:
            scope[tensor.name] = self._weight(tensor)
        for sparse in graph.sparse_initializer:
            self._problems.append(f"the constant {sparse.values.name!r} is sparse, which is not supported")
            scope[sparse.values.name] = None
        for position, node in enumerate(graph.node):
            self._add_node(node, scope, prefix + (node.name or f"{node.op_type}_{position}"))

    def add_operation(
        self, name: str, op_type: str, outputs: Sequence[str], computation: Computation, inputs: Sequence[Value]
    ) -> Sequence[Value]:
        """Translate a single computation, and return its results.

        A result that is one of the inputs is passed on as it is.
        """
        described = f"{op_type} ({name})"
        if not any(isinstance(value, ComputedValue) for value in inputs):
            return _computed_now(described, outputs, computation, inputs)
        fakes = [self._fake(value) for value in inputs]
        with _failures_told(described, fakes), self._fake_mode, _ReadTensors() as read:
            results = _as_tuple(computation(*fakes))
        passed_on = [_same_value(result, fakes, inputs) for result in results]
        if all(passed_on):
            return passed_on
        read_inputs = [
            value if id(fake) in read.identities else None for value, fake in zip(inputs, fakes, strict=True)
        ]
        if not any(isinstance(value, ComputedValue) for value in read_inputs):
            made = _computed_now(described, outputs, computation, read_inputs)
        else:
            made = self._called(name, op_type, computation, read_inputs, results)
        return [before or after for before, after in zip(passed_on, made, strict=True)]

    def _called(
        self,
        name: str,
        op_type: str,
        computation: Computation,
        inputs: Sequence[Value],
        results: Sequence[Tensor | None],
    ) -> Sequence[Value]:
        call = self._network.add_operation(
            name, op_type, computation, [None if value is None else self._node_of(value) for value in inputs]
        )
        sources = [call] if len(results) == 1 else [self._network.part(call, i) for i in range(len(results))]
        wrong = next((result.dtype for result in results if result is not None and result.dtype in STORED_ONLY), None)
        if wrong is not None:
            kind = str(wrong).removeprefix("torch.")
            raise OnnxRuleError(f"{op_type} ({name}): numbers of type {kind} can only be constants")
        return [
            None if result is None else ComputedValue(source, result)
            for source, result in zip(sources, results, strict=True)
        ]

    def _input(self, declared: onnx.ValueInfoProto) -> Value:
        tensor_type = declared.type.tensor_type
        dtype = torch_dtype(tensor_type.elem_type)
        if dtype is None or dtype in STORED_ONLY:
            kind = element_type_name(tensor_type.elem_type) if tensor_type.elem_type else "sequence or map"
            self._problems.append(f"input {declared.name!r} has the type {kind}, which is not supported")
            return None
        with self._fake_mode:
            fake = torch.empty([dimension.dim_value for dimension in tensor_type.shape.dim], dtype=dtype)
        return ComputedValue(self._network.add_input(declared.name), fake)

    def _weight(self, tensor: onnx.TensorProto) -> Value:
        if torch_dtype(tensor.data_type) is None:
            kind = element_type_name(tensor.data_type)
            self._problems.append(f"the constant {tensor.name!r} has elements of type {kind}, which is not supported")
            return None
        return KnownValue(tensor.name, tensor_of_proto(tensor), is_weight=True)

    def _add_node(self, proto: onnx.NodeProto, scope: Scope, name: str) -> None:
        results: Sequence[Value] | None = None
        try:
            results = self._results(proto, scope, name)
        except OnnxRuleError as error:
            self._problems.append(str(error).rstrip("."))
        for position, output in enumerate(proto.output):
            scope[output] = results[position] if results and position < len(results) else None

    def _results(self, proto: onnx.NodeProto, scope: Scope, name: str) -> Sequence[Value] | None:
        """Return the values of a node's outputs; None when an input could not be translated."""
        key = operation_key(proto.domain, proto.op_type)
        rule = find_rule(proto.domain, proto.op_type)
        if rule is None and key not in control_flow.OPERATIONS:
            raise OnnxRuleError(f"{key} ({name}): there is no rule for this operation")
        inputs = [scope[source] if source else None for source in proto.input]
        if any(source and value is None for source, value in zip(proto.input, inputs, strict=True)):
            return None
        if rule is None:
            return control_flow.OPERATIONS[key](self, proto, scope, name)
        node = self._described(proto, name, inputs)
        return self.add_operation(name, key, proto.output, rule(node), inputs)

    def _described(self, proto: onnx.NodeProto, name: str, inputs: Sequence[Value]) -> OnnxNode:
        domain = _plain(proto.domain)
        return OnnxNode(
            name=name,
            op_type=proto.op_type,
            domain=domain,
            opset=self._opsets.get(domain, 1),
            attributes=attribute_values(proto),
            inputs=tuple(proto.input),
            outputs=tuple(proto.output),
            shapes=tuple(None if value is None else tuple(value.tensor.shape) for value in inputs),
            dtypes=tuple(None if value is None else value.tensor.dtype for value in inputs),
            constants=tuple(_array(value) for value in inputs),
        )

    def _fake(self, value: Value) -> Tensor | None:
        if isinstance(value, KnownValue):
            return self._fake_mode.from_tensor(value.tensor, static_shapes=True)
        return None if value is None else value.tensor

    def _node_of(self, value: Value) -> fx.Node:
        assert value is not None
        return self._network.stored(value) if isinstance(value, KnownValue) else value.source


def _plain(domain: str) -> str:
    """Return the name of a domain; ONNX's own has two."""
    return "" if domain == "ai.onnx" else domain


class _ReadTensors(TorchFunctionMode):
    """Notes which tensors are given to a function of PyTorch, by their identity."""

    def __init__(self) -> None:
        super().__init__()
        self.identities: set[int] = set()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.identities.update(id(leaf) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor))
        return func(*args, **(kwargs or {}))


def _computed_now(
    described: str, outputs: Sequence[str], computation: Computation, inputs: Sequence[Value]
) -> Sequence[Value]:
    tensors = [None if value is None else value.tensor for value in inputs]
    with _failures_told(described, tensors), torch.no_grad():
        results = _as_tuple(computation(*tensors))
    names = [*outputs, *[f"{described}/{position}" for position in range(len(outputs), len(results))]]
    return [
        _same_value(result, tensors, inputs) or (None if result is None else KnownValue(name, result))
        for name, result in zip(names, results, strict=False)
    ]


def _same_value(result: Tensor | None, tensors: Sequence[Tensor | None], inputs: Sequence[Value]) -> Value:
    return next((value for value, tensor in zip(inputs, tensors, strict=True) if tensor is result), None)


def _as_tuple(results: Tensor | Sequence[Tensor] | None) -> tuple[Tensor | None, ...]:
    # None is what becomes of an input that is passed on but not read
    return (results,) if results is None or isinstance(results, Tensor) else tuple(results)


def _array(value: Value) -> np.ndarray[Any, Any] | None:
    if not isinstance(value, KnownValue):
        return None
    tensor = value.tensor.detach()
    array: np.ndarray[Any, Any] = (tensor.float() if tensor.dtype is torch.bfloat16 else tensor).numpy()
    return array


@contextmanager
def _failures_told(described: str, tensors: Sequence[Tensor | None]) -> Iterator[None]:
    # torch logs pages for what fails under fake tensors; here it becomes one sentence
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    except OnnxRuleError:
        raise
    except Exception as error:
        shapes = ", ".join("x".join(map(str, tensor.shape)) or "scalar" for tensor in tensors if tensor is not None)
        raise OnnxRuleError(f"{described}: it fails on input(s) of shape {shapes}: {first_line(error)}") from error
    finally:
        logging.disable(before)
