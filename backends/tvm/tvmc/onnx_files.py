"""ONNX files: our importer, and TVM's where ours lacks an operation or sizes are known only when it runs."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path

import onnx
from tvm.relax.frontend.onnx import from_onnx

from cospipe.backends.onnx.input_shapes import dimensions, fix_input_shapes, graph_inputs
from cospipe.backends.onnx.load import load_onnx
from cospipe.backends.onnx.model_file import read_model
from cospipe.backends.tvm.importer import check_supported
from cospipe.backends.tvm.tvmc.model import CapturedModel, ForeignModel, LoadedModel, captured_model
from cospipe.backends.tvm.tvmc.package_metadata import DYNAMIC
from cospipe.backends.tvm.tvmc.relax_import import relax_model
from cospipe.ir.capture import capture
from cospipe.ir.errors import CaptureError, UnsupportedModelError, UsageError, first_line, nearest, several

Shapes = Mapping[str, Sequence[int]]


def load_onnx_file(path: Path, shapes: Shapes) -> LoadedModel:
    """Read an ONNX file.

    Parameters
    ----------
    path : Path
        The file.
    shapes : mapping of str to sequence of int
        Sizes of inputs by name, -1 for one that is known only when the network runs.

    Raises
    ------
    UsageError
        When shapes do not fit the inputs, or sizes that the file leaves open are missing.
    CaptureError
        When the file is damaged, or neither our importer nor TVM's can read it.
    """
    model = read_model(path)
    _check_names(model.graph, shapes)
    if any(size < 1 for shape in shapes.values() for size in shape):
        return _by_tvm(path, _with_open_sizes(model, shapes), (), shapes)
    _check_closed(model.graph, shapes)
    try:
        return _by_us(path, model.graph, shapes)
    except UnsupportedModelError as error:
        fix_input_shapes(model, shapes)
        return _by_tvm(path, model, error.problems, shapes)
    except CaptureError as error:
        fix_input_shapes(model, shapes)
        return _by_tvm(path, model, (str(error),), shapes)


def _by_us(path: Path, graph: onnx.GraphProto, shapes: Shapes) -> CapturedModel:
    module, inputs = load_onnx(path, shapes)
    captured = capture(module, inputs)
    check_supported(captured)
    return captured_model(
        path.stem, captured, inputs, [i.name for i in graph_inputs(graph)], [o.name for o in graph.output]
    )


def _by_tvm(path: Path, model: onnx.ModelProto, reasons: Sequence[str], shapes: Shapes) -> ForeignModel:
    try:
        with redirect_stdout(io.StringIO()):  # it prints what the error says as well
            module = from_onnx(model, keep_params_in_input=True)
        return ForeignModel(path.stem, relax_model(module, [o.name for o in model.graph.output]), tuple(reasons))
    except Exception as error:  # TVM's front ends raise whatever they meet
        sizes = [f"{name} {'x'.join(map(str, shape))}" for name, shape in shapes.items()]
        what = " with the inputs ".join(filter(None, [str(path), ", ".join(sizes)]))
        raise CaptureError(
            several(f"Neither our importer nor TVM's can read {what}", [*reasons, f"TVM: {first_line(error)}"])
        ) from error


def _check_names(graph: onnx.GraphProto, shapes: Shapes) -> None:
    names = [declared.name for declared in graph_inputs(graph)]
    if unknown := [f"there is no input {name!r}. {nearest(name, names)}" for name in shapes if name not in names]:
        raise UsageError(several("The input shapes do not fit the file", unknown))


def _check_closed(graph: onnx.GraphProto, shapes: Shapes) -> None:
    """Check that all sizes are known; a first dimension alone may be open, it is the batch and becomes 1."""
    given: dict[object, int] = {
        name: size
        for declared in graph_inputs(graph)
        for name, size in zip(dimensions(declared) or [], shapes.get(declared.name, ()), strict=False)
    }
    left = [d for d in graph_inputs(graph) if d.name not in shapes and _needs_sizes(dimensions(d), given)]
    if left:
        lines = [f"{declared.name}: {_text(dimensions(declared))}" for declared in left]
        example = " ".join(f"{declared.name}:{_example(dimensions(declared))}" for declared in left)
        message = f'The file leaves sizes of inputs open; give them, for example --input-shapes "{example}", or -1 for'
        raise UsageError(several(f"{message} sizes that are known only when it runs (with slow kernels)", lines))


def _needs_sizes(sizes: Sequence[object] | None, given: Mapping[object, int]) -> bool:
    if sizes is None:
        return True
    still_open = [
        i for i, size in enumerate(sizes) if not isinstance(size, int) and (size is None or size not in given)
    ]
    return still_open not in ([], [0])


def _text(sizes: Sequence[object] | None) -> str:
    return "of any shape" if sizes is None else "x".join("?" if size is None else str(size) for size in sizes)


def _example(sizes: Sequence[object] | None) -> str:
    known = [None, 3, None, None] if sizes is None else sizes
    numbers = [size if isinstance(size, int) else 1 if i == 0 else 224 for i, size in enumerate(known)]
    return str(numbers).replace(" ", "")


def _with_open_sizes(model: onnx.ModelProto, shapes: Shapes) -> onnx.ModelProto:
    """Write the sizes that are given into a model; the others are called after their input."""
    for declared in graph_inputs(model.graph):
        if declared.name in shapes:
            shape = declared.type.tensor_type.shape
            named = [dimension.dim_param for dimension in shape.dim]
            shape.Clear()
            for position, size in enumerate(shapes[declared.name]):
                dimension = shape.dim.add()
                if size == DYNAMIC:
                    dimension.dim_param = (named[position : position + 1] or [""])[0] or f"size_{position}"
                else:
                    dimension.dim_value = size
    return model
