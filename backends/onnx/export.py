"""ONNX files of stages: one submodule of a split graph, for tools that read ONNX."""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import fx

from cospipe.backends.onnx.exported_names import name_nodes_after_graph, note_graph_nodes
from cospipe.ir.adapters import fold_nodes
from cospipe.ir.errors import LoweringError, UsageError, first_line

if TYPE_CHECKING:
    from torch.onnx import ONNXProgram

OPSETS = range(18, 23)
"""Versions of ONNX's operators that stages can be written in."""
_MOST_BYTES_INSIDE = 1 << 30
"""Weights beyond this go into a file of their own beside the model: protocol buffers end at 2 GiB."""


def export_stage(
    stage: fx.GraphModule,
    example_inputs: tuple[torch.Tensor, ...],
    path: str | Path,
    input_names: Sequence[str],
    output_names: Sequence[str],
    opset: int = 20,
) -> None:
    """Write one stage of a split graph as an ONNX file.

    Its nodes are called ``module.path/node``, after the nodes of the stage they come from, its weights as the model
    calls them where the export does not compute them anew. The file is whole or not there at all.

    Parameters
    ----------
    stage : fx.GraphModule
        A submodule of a split graph.
    example_inputs : tuple of Tensor
        Tensors of the stage's input shapes and dtypes.
    path : str or Path
        File to write. Weights of more than 1 GiB go into ``<path>.data`` beside it.
    input_names, output_names : sequence of str
        What the tensors at the borders of the stage are called.
    opset : int
        Version of ONNX's operators, 18 to 22.

    Raises
    ------
    UsageError
        When the opset is none of these, the packages that write ONNX are missing, or the stage folds adapters when it
        is loaded, which ONNX cannot say.
    LoweringError
        When PyTorch's exporter has no way to write an operation of the stage.
    """
    if opset not in OPSETS:
        raise UsageError(f"Stages are written with ONNX opset {OPSETS[0]} to {OPSETS[-1]}, not {opset}.")
    check_can_export(stage)
    path = Path(path)
    program = _onnx_program(stage, example_inputs, input_names, output_names, opset, path.stem)
    name_nodes_after_graph(program.model.graph)
    _save(program, path)


def check_packages() -> None:
    """Check that everything is installed that writes ONNX.

    Raises
    ------
    UsageError
        When onnx or onnxscript is missing.
    """
    if missing := [package for package in ("onnx", "onnxscript") if find_spec(package) is None]:
        raise UsageError(f"Writing ONNX needs {' and '.join(missing)}; install with: pip install 'cospipe[onnx]'.")


def check_can_export(stage: fx.GraphModule) -> None:
    """Check what can be known before anything is exported.

    Raises
    ------
    UsageError
        When onnx or onnxscript is missing, or the stage folds adapters when it is loaded.
    """
    check_packages()
    if folds := fold_nodes(stage):
        raise UsageError(
            f"An ONNX file has no place for adapters that are folded in when it is loaded ({folds[0].target} is the"
            " first): leave merge-adapters{at=load} out, and the adapter is merged into the weights now."
        )


def _onnx_program(
    stage: fx.GraphModule,
    example_inputs: tuple[torch.Tensor, ...],
    input_names: Sequence[str],
    output_names: Sequence[str],
    opset: int,
    title: str,
) -> ONNXProgram:
    options: dict[str, Any] = {"dynamo": True, "opset_version": opset, "verbose": False}
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # of deprecations inside the exporter
            exported = torch.export.export(stage, example_inputs)
            note_graph_nodes(exported, stage.graph)
            program = torch.onnx.export(
                exported, (), input_names=list(input_names), output_names=list(output_names), **options
            )
    except Exception as error:
        raise LoweringError(f"{title} cannot be written as ONNX: {_reason(error)}.") from error
    assert program is not None  # None is for the exporter of old
    return program


def _reason(error: BaseException) -> str:
    """Return the innermost cause: the exporter's own message is a page about how to report it."""
    while error.__cause__ is not None:
        error = error.__cause__
    return first_line(error)


def _save(program: ONNXProgram, path: Path) -> None:
    """Write the model, and its weights first where they get a file of their own."""
    tensors = (value.const_value for value in program.model.graph.initializers.values())
    is_large = sum(tensor.nbytes for tensor in tensors if tensor is not None) > _MOST_BYTES_INSIDE
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as scratch:
        program.save(Path(scratch) / path.name, external_data=is_large)
        for file in sorted(Path(scratch).iterdir(), reverse=True):
            os.replace(file, path.parent / file.name)
