"""Matrix products with a constant matrix as the linear layers they are.

``MatMul`` and most ``Gemm`` keep such a matrix with a column for each output, and ``MatMul`` has its bias in an
``Add`` that follows. Here they become one node ``cospipe:Linear(data, weight, bias)`` whose weight has a row for each
output, as ``torch.nn.Linear`` and the kernels want it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from onnx import GraphProto, NodeProto, TensorProto, numpy_helper
from torch.nn import functional

from cospipe.backends.onnx.attributes import attribute_values
from cospipe.backends.onnx.node import Rule

DOMAIN = "cospipe"

RULES: dict[str, Rule] = {f"{DOMAIN}:Linear": lambda _node: functional.linear}

_FLOATING = frozenset({TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16})


def make_linear_layers(graph: GraphProto) -> None:
    """Replace the products of a graph by linear layers, in place.

    A ``Gemm`` that scales, turns its first factor or adds more than a vector stays as it is. A matrix that only
    products read is stored anew under its own name; another one is stored twice.
    """
    constants = {tensor.name: tensor for tensor in graph.initializer if tensor.data_type in _FLOATING}
    products = [node for node in graph.node if _is_linear(node, constants)]
    with_columns = [node for node in products if not attribute_values(node).get("transB", 0)]
    weights = _with_rows(graph, constants, with_columns)
    for node in products:
        is_turned = node in with_columns
        _become_linear(node, weights[node.input[1]] if is_turned else node.input[1])
    _take_in_biases(graph, constants)


def _is_linear(node: NodeProto, constants: Mapping[str, TensorProto]) -> bool:
    if node.op_type not in ("Gemm", "MatMul") or node.domain not in ("", "ai.onnx"):
        return False
    weight = constants.get(node.input[1])
    if weight is None or len(weight.dims) != 2:
        return False
    options = attribute_values(node)
    if options.get("alpha", 1.0) != 1 or options.get("beta", 1.0) != 1 or options.get("transA", 0):
        return False
    outputs = weight.dims[0 if options.get("transB", 0) else 1]
    bias = node.input[2] if len(node.input) > 2 else ""
    return not bias or _is_vector(constants.get(bias), outputs)


def _is_vector(tensor: TensorProto | None, size: int) -> bool:
    return tensor is not None and list(tensor.dims) == [size]


def _with_rows(
    graph: GraphProto, constants: Mapping[str, TensorProto], products: Sequence[NodeProto]
) -> dict[str, str]:
    """Store the weights of products with a row for each output; return their names by the old ones."""
    all_readers, these_readers = Counter(_names_read(graph)), Counter(node.input[1] for node in products)
    names = {}
    for name, count in these_readers.items():
        names[name] = name if count == all_readers[name] else f"{name}_transposed"
        turned = np.ascontiguousarray(numpy_helper.to_array(constants[name]).T)
        stored = constants[name] if names[name] == name else graph.initializer.add()
        stored.CopyFrom(numpy_helper.from_array(turned, names[name]))
    return names


def _names_read(graph: GraphProto) -> Iterator[str]:
    yield from (output.name for output in graph.output)
    for node in graph.node:
        yield from node.input
        for attribute in node.attribute:
            for inner in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])):
                yield from _names_read(inner)


def _become_linear(node: NodeProto, weight: str) -> None:
    node.op_type, node.domain = "Linear", DOMAIN
    node.input[1] = weight
    del node.attribute[:]


def _take_in_biases(graph: GraphProto, constants: Mapping[str, TensorProto]) -> None:
    sizes = {tensor.name: tensor.dims[0] for tensor in graph.initializer if len(tensor.dims) == 2}
    readers = Counter(_names_read(graph))
    without_bias = {
        node.output[0]: node
        for node in graph.node
        if node.domain == DOMAIN and len(node.input) == 2 and readers[node.output[0]] == 1
    }
    for addition in [node for node in graph.node if node.op_type == "Add"]:
        for product, bias in (addition.input, reversed(addition.input)):
            layer = without_bias.get(product)
            if layer is not None and _is_vector(constants.get(bias), sizes[layer.input[1]]):
                layer.input.append(bias)
                layer.output[0] = addition.output[0]
                graph.node.remove(addition)
                break
