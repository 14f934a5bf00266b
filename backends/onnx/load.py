"""From an ONNX file to a PyTorch module with example inputs."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, fx

from cospipe.backends.onnx.example_inputs import example_inputs
from cospipe.backends.onnx.importer import import_model
from cospipe.backends.onnx.input_shapes import InputShapes, fix_input_shapes, graph_inputs
from cospipe.backends.onnx.input_values import InputValues, write_input_values
from cospipe.backends.onnx.linear_layers import make_linear_layers
from cospipe.backends.onnx.model_file import read_model
from cospipe.backends.onnx.simplify import simplify


def load_onnx(
    path: str | Path, input_shapes: InputShapes = None, input_values: InputValues | None = None
) -> tuple[fx.GraphModule, tuple[Tensor, ...]]:
    """Import an ONNX file.

    Parameters
    ----------
    path : str or Path
        The file; its external data lie beside it.
    input_shapes : sequence of shapes, or mapping of str to shape, optional
        For the first inputs in their order, or for inputs by name; needed where the file leaves sizes open. An open
        first dimension alone is 1.
    input_values : mapping of str to number or array, optional
        Inputs that always have this value, by name; the module does not have them.

    Returns
    -------
    model : fx.GraphModule
        In eval mode, its weights under their names in the file, its inputs too where Python allows.
    example_inputs : tuple of Tensor
        One for each remaining input.

    Raises
    ------
    UsageError
        When there is no such file, or shapes or values do not fit its inputs or are missing.
    CaptureError
        When the file is damaged, invalid, or of an opset that is too old or too new.
    UnsupportedModelError
        Listing every node that cannot be translated.
    """
    model = read_model(path)
    fix_input_shapes(model, input_shapes)
    write_input_values(model.graph, input_values or {})
    simple = simplify(model)
    inputs = example_inputs(simple.graph, graph_inputs(model.graph))
    make_linear_layers(simple.graph)
    return import_model(simple), inputs
