"""What a captured graph must not have: dynamic shapes, control flow, random numbers, state, other outputs."""

from __future__ import annotations

import torch
from torch import fx
from torch.export import ExportedProgram
from torch.export.graph_signature import ConstantArgument

from cospipe.ir.errors import CaptureError, several
from cospipe.ir.graph import module_path
from cospipe.ir.normalise import is_random


def check_inputs(program: ExportedProgram) -> None:
    """Check that every input is a tensor of a fixed shape.

    Raises
    ------
    CaptureError
        When there are others; the message names them.
    """
    constants = [
        spec.arg.name for spec in program.graph_signature.input_specs if isinstance(spec.arg, ConstantArgument)
    ]
    if constants:
        raise CaptureError(
            f"Input(s) {', '.join(constants)} of the exported program are not tensors; export it with tensors only."
        )
    dynamic = [
        f"input {node.name!r} has the shape {_shape_text(node.meta['val'])}"
        for node in program.graph.nodes
        if node.op == "placeholder" and not _is_static(node.meta.get("val"))
    ]
    if dynamic:
        raise CaptureError(several("Dynamic shapes cannot be compiled; export with fixed sizes", dynamic))


def _shape_text(tensor: torch.Tensor) -> str:
    return "x".join(map(str, tensor.shape))


def _is_static(value: object) -> bool:
    if isinstance(value, torch.Tensor):
        return all(isinstance(size, int) for size in value.shape)
    if isinstance(value, (tuple, list)):
        return all(_is_static(item) for item in value)
    return not isinstance(value, (torch.SymInt, torch.SymFloat, torch.SymBool))


def check_graph(graph: fx.Graph) -> None:
    """Check that a graph computes tensors of fixed shapes from its inputs and nothing else.

    Raises
    ------
    CaptureError
        When it does not; the message lists every node at fault with its module.
    """
    outputs = graph.output_node().args[0]
    assert isinstance(outputs, (tuple, list))
    if not outputs or not all(isinstance(value, fx.Node) for value in outputs):
        raise CaptureError("The model returns something that is not a tensor; wrap it so that it returns tensors only.")
    problems = [problem for node in graph.nodes if (problem := _problem(node))]
    if problems:
        raise CaptureError(several("This model cannot be captured", problems))


def _problem(node: fx.Node) -> str | None:
    where = f"{node.name} ({node.target}) in {module_path(node) or 'the model itself'}"
    if isinstance(node.target, torch._ops.HigherOrderOperator):
        return f"{where}: control flow inside the graph; replace it by tensor operations such as torch.where"
    if not _is_static(node.meta.get("val")):
        is_consequence = any(not _is_static(read.meta.get("val")) for read in node.all_input_nodes)
        return None if is_consequence else f"{where}: its result depends on the values of tensors; give it a fixed size"
    if is_random(node):
        return f"{where}: random numbers; call eval() before exporting, or make them an input"
    if isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable:
        changed = _tensor_name(node.args[0])
        return f"{where}: changes {changed} while it runs; call eval() before exporting, or keep no state"
    return None


def _tensor_name(value: object) -> str:
    return str(value.target) if isinstance(value, fx.Node) else str(value)
