"""Networks from files: ONNX, PyTorch and Relax, by our own front ends where they can, else by TVM's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch.export import ExportedProgram
from tvm.relax.frontend.torch import from_exported_program

from cospipe.backends.tvm.importer import check_supported
from cospipe.backends.tvm.tvmc.model import ForeignModel, LoadedModel, captured_model
from cospipe.backends.tvm.tvmc.relax_import import relax_model
from cospipe.backends.tvm.tvmc.torch_files import read_program
from cospipe.ir.capture import capture
from cospipe.ir.errors import CaptureError, UnsupportedModelError, UsageError, first_line, nearest, several

Shapes = Mapping[str, Sequence[int]]
"""Sizes of inputs by name, -1 for one that is known only when the network runs."""


def load_network(path: Path, model_format: str, shapes: Shapes | None = None) -> LoadedModel:
    """Read a network.

    Parameters
    ----------
    path : Path
        The file.
    model_format : str
        ``onnx``, ``pytorch``, ``pt2`` or ``relax``.
    shapes : mapping of str to sequence of int, optional
        Sizes of inputs by name.

    Raises
    ------
    UsageError
        When shapes do not fit the inputs, or are missing.
    CaptureError
        When the file is damaged or something else, or neither our front end nor TVM's can read the network.
    """
    if model_format == "onnx":
        from cospipe.backends.tvm.tvmc.onnx_files import load_onnx_file  # onnx is an optional package

        return load_onnx_file(path, shapes or {})
    if model_format == "relax":
        from cospipe.backends.tvm.tvmc.relax_files import load_relax_file

        return load_relax_file(path, shapes or {})
    program, names = read_program(path, shapes or {})
    return load_program(path.stem, program, shapes or {}, names)


def load_program(name: str, program: ExportedProgram, shapes: Shapes, input_names: Sequence[str] = ()) -> LoadedModel:
    """Return an exported program of PyTorch as a network; its inputs are called as it calls them itself by default.

    Raises
    ------
    UsageError
        When other shapes are wanted than it was exported with.
    CaptureError
        When neither our front end nor TVM's can read it.
    """
    inputs = _inputs(name, program)
    names = list(input_names) or _input_names(program)
    _check_shapes(name, program, names, shapes)
    try:
        graph = capture(program)
        check_supported(graph)
        return captured_model(name, graph, inputs, names)
    except (CaptureError, UnsupportedModelError) as error:
        reasons = error.problems if isinstance(error, UnsupportedModelError) else (str(error),)
        return _by_tvm(name, program, reasons)


def _by_tvm(name: str, program: ExportedProgram, reasons: Sequence[str]) -> ForeignModel:
    try:
        module = from_exported_program(program, keep_params_as_input=True)
        return ForeignModel(name, relax_model(module), tuple(reasons))
    except Exception as error:  # TVM's front ends raise whatever they meet
        raise CaptureError(
            several(f"Neither our front end nor TVM's can read {name}", [*reasons, f"TVM: {first_line(error)}"])
        ) from error


def _input_names(program: ExportedProgram) -> list[str]:
    return [str(name) for name in program.graph_signature.user_inputs]


def _inputs(name: str, program: ExportedProgram) -> tuple[torch.Tensor, ...]:
    positional, by_keyword = program.example_inputs or ((), {})
    inputs = (*positional, *by_keyword.values())
    if not inputs or not all(isinstance(value, torch.Tensor) for value in inputs):
        raise CaptureError(f"{name} has no example inputs that are tensors; export it with a tuple of tensors.")
    return inputs


def _check_shapes(name: str, program: ExportedProgram, names: Sequence[str], shapes: Shapes) -> None:
    sizes = {node.name: node.meta["val"].shape for node in program.graph.find_nodes(op="placeholder")}
    exported = {called: sizes[own] for called, own in zip(names, _input_names(program), strict=True)}
    problems = [f"there is no input {given!r}. {nearest(given, names)}" for given in shapes if given not in names]
    problems += [
        f"{given} was exported with {'x'.join(map(str, exported[given]))}, not {'x'.join(map(str, shape))}"
        for given, shape in shapes.items()
        if given in exported and not _fits(exported[given], shape)
    ]
    if problems:
        raise UsageError(several(f"The input shapes do not fit {name}; export it again, or leave them out", problems))


def _fits(exported: Sequence[object], shape: Sequence[int]) -> bool:
    if len(exported) != len(shape):
        return False
    pairs = zip(exported, shape, strict=True)
    return all(wanted == size if isinstance(size, int) else wanted < 0 for size, wanted in pairs)
