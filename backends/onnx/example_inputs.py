"""Example inputs for an ONNX graph, of values that it can digest."""

from __future__ import annotations

from collections.abc import Sequence

import onnx
import torch
from onnx import numpy_helper
from torch import Tensor

from cospipe.backends.onnx.element_types import torch_dtype

_PASS_INDICES_ON = frozenset({"Cast", "Expand", "Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"})
_LOOK_UP = frozenset({"Gather", "GatherElements"})


def example_inputs(graph: onnx.GraphProto, inputs: Sequence[onnx.ValueInfoProto]) -> tuple[Tensor, ...]:
    """Return a tensor for each of these inputs of a graph, the same at each call.

    Floating-point numbers are normally distributed. Integers are below the number of rows of the table they are looked
    up in, or among the constants they are compared with, and 0 or 1 when there are none. Masks, that is Booleans and
    integers whose name has "mask" in it, are all true.

    Parameters
    ----------
    graph : onnx.GraphProto
        In which integer inputs are followed to their tables.
    inputs : sequence of ValueInfoProto
        Their shapes must be fixed.
    """
    generator = torch.Generator().manual_seed(0)
    return tuple(_example(graph, declared, generator) for declared in inputs)


def _example(graph: onnx.GraphProto, declared: onnx.ValueInfoProto, generator: torch.Generator) -> Tensor:
    tensor_type = declared.type.tensor_type
    shape = [dimension.dim_value for dimension in tensor_type.shape.dim]
    dtype = torch_dtype(tensor_type.elem_type) or torch.float32
    if dtype.is_floating_point:
        return torch.randn(shape, generator=generator).to(dtype)
    if dtype is torch.bool or "mask" in declared.name.lower():
        return torch.ones(shape, dtype=dtype)
    return torch.randint(0, _rows_of_tables(graph, declared.name), shape, generator=generator).to(dtype)


def _rows_of_tables(graph: onnx.GraphProto, name: str) -> int:
    """Return the rows of the smallest table, of numbers or constants, that an input's values are looked up in."""
    constants = {tensor.name: tensor for tensor in graph.initializer}
    same_values, rows = {name}, []
    for node in graph.node:
        if node.op_type in _PASS_INDICES_ON and node.input[0] in same_values:
            same_values.add(node.output[0])
        elif node.op_type in _LOOK_UP and node.input[1] in same_values and node.input[0] in constants:
            axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 0)
            rows.append(int(constants[node.input[0]].dims[axis]))
        elif node.op_type == "Equal" and node.input[0] in same_values and node.input[1] in constants:
            rows.append(int(numpy_helper.to_array(constants[node.input[1]]).max()) + 1)
    return max(min(rows, default=2), 1)
