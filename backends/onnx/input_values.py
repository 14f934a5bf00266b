"""Inputs of an ONNX graph that always have the same value, such as a sample rate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import onnx

from cospipe.backends.onnx.input_shapes import graph_inputs
from cospipe.ir.errors import UsageError, nearest, several

InputValues: TypeAlias = "Mapping[str, float | Sequence[float] | np.ndarray[Any, Any]]"


def write_input_values(graph: onnx.GraphProto, values: InputValues) -> None:
    """Make constants of the inputs that have a value, in place; one number stands for every element.

    Parameters
    ----------
    graph : onnx.GraphProto
        The shapes of its inputs are fixed.
    values : mapping of str to number or array
        By the inputs' names.

    Raises
    ------
    UsageError
        When a name is no input, a value has another shape, or its numbers are none of the input's type.
    """
    by_name = {declared.name: declared for declared in graph_inputs(graph)}
    unknown = [name for name in values if name not in by_name]
    if unknown:
        raise UsageError(f"There is no input {unknown[0]!r} to give a value to. {nearest(unknown[0], by_name)}")
    problems = [problem for name, value in values.items() if (problem := _problem(by_name[name], np.asarray(value)))]
    if problems:
        raise UsageError(several("These values do not fit their inputs", problems))
    for name, value in values.items():
        graph.initializer.append(_constant(by_name[name], np.asarray(value)))
        graph.input.remove(by_name[name])


def _problem(declared: onnx.ValueInfoProto, value: np.ndarray[Any, Any]) -> str | None:
    shape, dtype = _shape(declared), _dtype(declared)
    if value.size != 1 and value.shape != shape:
        return f"input {declared.name!r}: the value has the shape {list(value.shape)}, the input {list(shape)}"
    if not np.issubdtype(dtype, np.floating) and not np.array_equal(value.astype(dtype), value):
        return f"input {declared.name!r}: {value.tolist()} is no {dtype.name}"
    return None


def _constant(declared: onnx.ValueInfoProto, value: np.ndarray[Any, Any]) -> onnx.TensorProto:
    shape = _shape(declared)
    values = np.broadcast_to(value.reshape(() if value.size == 1 else shape), shape)
    return onnx.numpy_helper.from_array(values.astype(_dtype(declared)), declared.name)


def _shape(declared: onnx.ValueInfoProto) -> tuple[int, ...]:
    return tuple(dimension.dim_value for dimension in declared.type.tensor_type.shape.dim)


def _dtype(declared: onnx.ValueInfoProto) -> np.dtype[Any]:
    return onnx.helper.tensor_dtype_to_np_dtype(declared.type.tensor_type.elem_type)
