"""Fixed sizes for the inputs of an ONNX graph, from what the file says and what the user gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import onnx

from cospipe.ir.errors import UsageError, nearest, several

Shape: TypeAlias = Sequence[int]
InputShapes: TypeAlias = "Sequence[Shape] | Mapping[str, Shape] | None"
Dimension: TypeAlias = "int | str | None"
"""A size, the name of a size, or nothing known."""


def graph_inputs(graph: onnx.GraphProto) -> list[onnx.ValueInfoProto]:
    """Return the inputs of a graph; old files list their weights among them, here they are left out."""
    weights = {tensor.name for tensor in graph.initializer}
    return [declared for declared in graph.input if declared.name not in weights]


def fix_input_shapes(model: onnx.ModelProto, shapes: InputShapes = None) -> None:
    """Write a size for every dimension of every input into a model.

    A dimension with a name has the same size wherever this name stands. A first dimension of which nothing is known
    is the batch, and 1, when it is the only open dimension of its input.

    Parameters
    ----------
    model : onnx.ModelProto
        Changed in place; what it says of the shapes of other values is removed.
    shapes : sequence of shapes, or mapping of str to shape, optional
        For the first inputs in their order, or for inputs by name.

    Raises
    ------
    UsageError
        When a name is no input, there are too many shapes, a shape contradicts the file or another one, or a size is
        still open; the message lists every problem.
    """
    inputs = graph_inputs(model.graph)
    given = _by_name(inputs, shapes)
    sizes: dict[str, int] = {}
    problems: list[str] = []
    fixed = {declared.name: dimensions(declared) for declared in inputs}
    for name, shape in given.items():
        problems += _contradictions(name, fixed[name], shape, sizes)
        fixed[name] = list(shape)
    if problems:
        raise UsageError(several("These input shapes do not fit the file", problems))
    _default_batches(fixed, sizes)
    resolved = {name: _resolved(sizes_of, sizes) for name, sizes_of in fixed.items()}
    open_inputs = [declared for declared in inputs if not _is_fixed(resolved[declared.name])]
    if open_inputs:
        raise UsageError(_open_text(open_inputs))
    for declared in inputs:
        _write_shape(declared, resolved[declared.name] or [])
    _forget_other_shapes(model.graph)


def dimensions(declared: onnx.ValueInfoProto) -> list[Dimension] | None:
    """Return the dimensions of a tensor as the file has them; None when even their number is open."""
    tensor_type = declared.type.tensor_type
    if not tensor_type.HasField("shape"):
        return None
    return [_dimension(dimension) for dimension in tensor_type.shape.dim]


def _dimension(dimension: onnx.TensorShapeProto.Dimension) -> Dimension:
    if dimension.dim_value > 0:
        return int(dimension.dim_value)
    # some exporters write "?" for what they do not know; it is no name
    return dimension.dim_param if dimension.dim_param not in ("", "?") else None


def _by_name(inputs: Sequence[onnx.ValueInfoProto], shapes: InputShapes) -> dict[str, Shape]:
    names = [declared.name for declared in inputs]
    if not shapes:
        return {}
    if not isinstance(shapes, Mapping):
        if len(shapes) > len(names):
            raise UsageError(f"There are {len(shapes)} input shapes, but {len(names)} input(s): {', '.join(names)}.")
        return dict(zip(names, shapes, strict=False))
    unknown = [name for name in shapes if name not in names]
    if unknown:
        raise UsageError(f"There is no input {unknown[0]!r}. {nearest(unknown[0], names)}")
    return dict(shapes)


def _contradictions(name: str, declared: list[Dimension] | None, shape: Shape, sizes: dict[str, int]) -> list[str]:
    if any(size <= 0 for size in shape):
        return [f"input {name!r}: the sizes of {_text(list(shape))} must be positive"]
    if declared is None:
        return []
    if len(declared) != len(shape):
        return [f"input {name!r}: {_text(list(shape))} has {len(shape)} dimension(s), the file {_text(declared)}"]
    problems = []
    for position, (dimension, size) in enumerate(zip(declared, shape, strict=True)):
        expected = sizes.setdefault(dimension, size) if isinstance(dimension, str) else dimension
        if expected not in (None, size):
            what = f" {dimension!r}" if isinstance(dimension, str) else ""
            problems.append(f"input {name!r}: dimension {position}{what} is {size}, but it has to be {expected}")
    return problems


def _default_batches(fixed: Mapping[str, list[Dimension] | None], sizes: dict[str, int]) -> None:
    for declared in fixed.values():
        still_open = _open_positions(_resolved(declared, sizes))
        if declared and still_open == [0]:
            if isinstance(declared[0], str):
                sizes[declared[0]] = 1
            else:
                declared[0] = 1


def _resolved(declared: list[Dimension] | None, sizes: Mapping[str, int]) -> list[Dimension] | None:
    if declared is None:
        return None
    return [sizes.get(dimension, dimension) if isinstance(dimension, str) else dimension for dimension in declared]


def _open_positions(shape: list[Dimension] | None) -> list[int] | None:
    return None if shape is None else [i for i, size in enumerate(shape) if not isinstance(size, int)]


def _is_fixed(shape: list[Dimension] | None) -> bool:
    return _open_positions(shape) == []


def _open_text(inputs: Sequence[onnx.ValueInfoProto]) -> str:
    lines = [f"{declared.name}: {_text(dimensions(declared))}" for declared in inputs]
    example = f"--input-shape {inputs[0].name}:{_example(dimensions(inputs[0]))}"
    return several(f"The file leaves sizes of inputs open; give their shapes, for example {example}", lines)


def _example(declared: list[Dimension] | None) -> str:
    sizes = [1 if position == 0 else 224 for position in range(4)] if declared is None else declared
    return ",".join(
        str(size if isinstance(size, int) else 1 if position == 0 else 224) for position, size in enumerate(sizes)
    )


def _text(shape: list[Dimension] | None) -> str:
    if shape is None:
        return "of any shape"
    return ",".join("?" if size is None else str(size) for size in shape) or "a scalar"


def _write_shape(declared: onnx.ValueInfoProto, shape: Sequence[Dimension]) -> None:
    tensor_type = declared.type.tensor_type
    tensor_type.shape.Clear()
    tensor_type.shape.SetInParent()
    for size in shape:
        assert isinstance(size, int)
        tensor_type.shape.dim.add().dim_value = size


def _forget_other_shapes(graph: onnx.GraphProto) -> None:
    del graph.value_info[:]
    for output in graph.output:
        output.type.tensor_type.ClearField("shape")
