"""Models by name for every command: factories, ``.pt2`` files and ``.onnx`` files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn
from torch.export import ExportedProgram

from cospipe.ir.errors import CospipeError, UsageError
from cospipe.ir.load import load_model as load_pytorch_model


def load_model(
    spec: str,
    input_shapes: Sequence[Sequence[int]] | Mapping[str, Sequence[int]] | None = None,
    input_values: Mapping[str, float | Sequence[float]] | None = None,
) -> tuple[nn.Module | ExportedProgram, tuple[torch.Tensor, ...]]:
    """Return a model and example inputs for it.

    Parameters
    ----------
    spec : str
        ``package.module:factory`` or a ``.pt2`` file (see :func:`cospipe.ir.load.load_model`), or an ``.onnx`` file.
    input_shapes : sequence of shapes, or mapping of str to shape, optional
        One for each input in order; for an ONNX file also by name, and only where it leaves sizes open.
    input_values : mapping of str to number or numbers, optional
        Inputs of an ONNX file that always have this value.

    Returns
    -------
    model : nn.Module or ExportedProgram
        A module is in eval mode.
    example_inputs : tuple of Tensor
        Always the same.

    Raises
    ------
    UsageError
        When there is no such model, or shapes or values do not fit it.
    CaptureError
        When a file is damaged or not supported, or the factory fails.
    UnsupportedModelError
        When an ONNX file has operations that cannot be translated.
    CospipeError
        When the packages that read ONNX files are not installed.
    """
    if spec.endswith(".onnx"):
        return _load_onnx(spec, input_shapes, input_values)
    if input_values or isinstance(input_shapes, Mapping):
        raise UsageError(
            f"Inputs are named only for ONNX files; {spec} is none. Give the shapes alone, in the order of the inputs."
        )
    return load_pytorch_model(spec, input_shapes)


def _load_onnx(
    path: str,
    input_shapes: Sequence[Sequence[int]] | Mapping[str, Sequence[int]] | None,
    input_values: Mapping[str, float | Sequence[float]] | None,
) -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    try:
        from cospipe.backends.onnx.load import load_onnx
    except ModuleNotFoundError as error:
        if error.name not in ("onnx", "onnxslim"):
            raise
        raise CospipeError(
            f"Reading {path} needs the package {error.name}; install it with: pip install 'cospipe[onnx]'"
        ) from error
    return load_onnx(path, input_shapes, input_values)
