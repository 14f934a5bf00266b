"""Networks that are cut into stages: PyTorch modules and programs, not Relax."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import nn
from torch.export import ExportedProgram

from cospipe.backends.tvm.tvmc.loading import load_program
from cospipe.backends.tvm.tvmc.model import CapturedModel
from cospipe.backends.tvm.tvmc.torch_files import read_program
from cospipe.ir.errors import CaptureError, UsageError, several


def load_for_pipeline(
    path: Path, model_format: str, shapes: Mapping[str, Sequence[int]]
) -> tuple[nn.Module | ExportedProgram, tuple[torch.Tensor, ...]]:
    """Read a network with example inputs; all sizes must be known.

    Raises
    ------
    UsageError
        When the file holds Relax, or sizes are open.
    CaptureError, UnsupportedModelError
        When our front end cannot read it; every reason is listed.
    """
    if any(size < 1 for shape in shapes.values() for size in shape):
        raise UsageError("A pipeline needs sizes that are known when it is compiled; give numbers above 0.")
    if model_format == "relax":
        raise UsageError("A network in Relax cannot be cut into stages; name its ONNX or PyTorch file.")
    if model_format == "onnx":
        from cospipe.backends.onnx.load import load_onnx  # onnx is an optional package

        return load_onnx(path, shapes)
    program, names = read_program(path, shapes)
    loaded = load_program(path.stem, program, shapes, names)
    if not isinstance(loaded, CapturedModel):
        raise CaptureError(several(f"{path} cannot be cut into stages", loaded.reasons))
    return program, loaded.example_inputs
