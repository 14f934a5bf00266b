"""From a PyTorch model to the one graph form of this compiler: ATen operations with shapes.

A captured graph is an ``fx.GraphModule`` with these properties, which every pass keeps:

* nodes call functional ATen overloads (or ``operator.getitem``, or an adapter module);
* parameters and buffers are ``get_attr`` nodes under the model's own fully qualified names, each read by one node;
* each node but the output has its fake tensor(s) in ``meta["val"]``, with fixed sizes only;
* it is called with the inputs as flat tensors and returns a flat tuple of tensors.
"""

from __future__ import annotations

import logging
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from io import StringIO
from pathlib import Path

import torch
from torch import fx, nn
from torch._decomp import get_decompositions
from torch.export import ExportedProgram
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode
from torch.fx.graph import CodeGen
from torch.utils._pytree import tree_leaves

from cospipe.ir.capture_checks import check_graph, check_inputs
from cospipe.ir.errors import CaptureError, UsageError, first_line, several
from cospipe.ir.graph import module_path
from cospipe.ir.load import load_model
from cospipe.ir.normalise import normalise

__all__ = ["capture", "load_model", "module_path"]

_ATEN = torch.ops.aten
_STEPS_OF_RECURRENCES = get_decompositions(
    [_ATEN.lstm.input, _ATEN.gru.input, _ATEN.rnn_tanh.input, _ATEN.rnn_relu.input]
)
"""A recurrent layer is one operation to PyTorch; its steps can be compiled, and divided among stages."""


def capture(
    model: nn.Module | ExportedProgram, example_inputs: tuple[torch.Tensor, ...] | None = None
) -> fx.GraphModule:
    """Return the graph of a model in eval mode.

    Parameters
    ----------
    model : nn.Module or ExportedProgram
        The model; its parameters are shared with the graph, its training flags are left as they were.
    example_inputs : tuple of Tensor, optional
        One tensor for each input; sizes and types of the graph are theirs. Not needed for an exported program.

    Returns
    -------
    fx.GraphModule
        Called with the inputs, it returns a tuple with every output tensor of the model (dictionaries and nested
        tuples are flattened in order).

    Raises
    ------
    UsageError
        When a module comes without example inputs, or these are not tensors.
    CaptureError
        When the model fails on the example inputs, has dynamic shapes, control flow that depends on data, random
        numbers, state it changes while running, or outputs that are not tensors.
    """
    program = model if isinstance(model, ExportedProgram) else _export(model, _checked(example_inputs))
    check_inputs(program)
    unlifted = program.run_decompositions(_STEPS_OF_RECURRENCES).module(check_guards=False)
    assert isinstance(unlifted, fx.GraphModule)
    check_graph(unlifted.graph)
    unlifted.graph.set_codegen(CodeGen())
    graph_module = fx.GraphModule(unlifted, unlifted.graph, class_name=_class_name(model))
    normalise(graph_module)
    return fx.GraphModule(graph_module, graph_module.graph, class_name=_class_name(model)).eval()


def _class_name(model: nn.Module | ExportedProgram) -> str:
    return "Captured" if isinstance(model, ExportedProgram) else type(model).__name__


def _checked(example_inputs: object) -> tuple[torch.Tensor, ...]:
    inputs = (example_inputs,) if isinstance(example_inputs, torch.Tensor) else example_inputs
    if not isinstance(inputs, Sequence) or not inputs:
        raise UsageError("Capturing a module needs example inputs: a tuple with one tensor for each input.")
    wrong = [f"input {i} is a {type(value).__name__}" for i, value in enumerate(inputs) if not _is_tensor(value)]
    if wrong:
        raise UsageError(several("Example inputs must be tensors; wrap the model so that it takes only these", wrong))
    return tuple(inputs)


def _is_tensor(value: object) -> bool:
    return isinstance(value, torch.Tensor)


def _export(model: nn.Module, inputs: tuple[torch.Tensor, ...]) -> ExportedProgram:
    with _eval_mode(model), torch.no_grad():
        _check_runs(model, inputs)
        try:
            with _quiet():
                return torch.export.export(model, inputs)
        except GuardOnDataDependentSymNode as error:
            raise CaptureError(_data_dependent(model, error)) from error
        except Exception as error:
            raise CaptureError(
                f"torch.export cannot capture {type(model).__name__}, which runs in eager mode: {first_line(error)}."
            ) from error


def _data_dependent(model: nn.Module, error: BaseException) -> str:
    torch_folder = str(Path(torch.__file__).parent)
    frames = traceback.extract_tb(error.__traceback__)
    last = [frame for frame in frames if not frame.filename.startswith(torch_folder)][-1]
    return (
        f"{type(model).__name__} decides by the values of its tensors what to compute, in {last.filename} line"
        f" {last.lineno}; rewrite that place with tensor operations such as torch.where."
    )


def _check_runs(model: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
    try:
        outputs = model(*(tensor.clone() for tensor in inputs))
    except Exception as error:
        shapes = ", ".join("x".join(map(str, tensor.shape)) or "scalar" for tensor in inputs)
        raise CaptureError(
            f"{type(model).__name__} fails on its example input(s) of shape {shapes}: {first_line(error)}."
        ) from error
    kinds = sorted({type(value).__name__ for value in tree_leaves(outputs) if not _is_tensor(value)})
    if kinds:
        raise CaptureError(
            f"{type(model).__name__} returns {', '.join(kinds)} beside or instead of tensors; wrap it so that it"
            " returns tensors only."
        )


@contextmanager
def _eval_mode(model: nn.Module) -> Iterator[None]:
    flags = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in flags:
            module.training = training


@contextmanager
def _quiet() -> Iterator[None]:
    # torch.export logs and prints pages of traceback for what is reported here as one sentence
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with redirect_stderr(StringIO()), warnings.catch_warnings():
            # recurrent layers list their weights anew whenever they run
            warnings.filterwarnings("ignore", message=r"The tensor attributes? .*_flat_weights")
            yield
    finally:
        logging.disable(before)
