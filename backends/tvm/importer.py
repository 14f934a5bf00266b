"""From a stage graph to Relax: torch.export, TVM's importer, weights as named parameters."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import tvm
from torch import fx
from torch.export.graph_signature import InputKind
from tvm import relax
from tvm.relax.frontend.torch.base_fx_graph_translator import BaseFXGraphImporter
from tvm.relax.frontend.torch.exported_program_translator import ExportedProgramImporter

from cospipe.backends.tvm.decompositions import decomposition_table, is_importable, operation_name
from cospipe.backends.tvm.provenance import imported_sources, with_sources
from cospipe.backends.tvm.typed_converters import CONVERTERS
from cospipe.ir.capture import module_path
from cospipe.ir.errors import UnsupportedModelError

_NUMBERS = frozenset(
    {torch.float32, torch.float64, torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool}
)


@dataclass(frozen=True)
class ImportedStage:
    """A stage as Relax: ``main(inputs..., weights...) -> tuple`` and the names of its weights in that order."""

    module: tvm.IRModule
    weight_names: tuple[str, ...]


def check_supported(graph_module: fx.GraphModule) -> None:
    """Check that every operation, every type of number and every output of a captured graph can be compiled.

    Raises
    ------
    UnsupportedModelError
        Listing everything that cannot, operations with their node and module path.
    """
    problems = [
        f"{operation_name(node)} (node {node.name}, in {module_path(node) or 'the model itself'})"
        for node in graph_module.graph.nodes
        if node.op == "call_function" and not is_importable(node)
    ]
    problems += [
        f"output {node.target} depends on no input; leave it out"
        for node in graph_module.graph.output_node().all_input_nodes
        if node.op == "get_attr"
    ]
    problems += _unsupported_numbers(graph_module)
    if problems:
        raise UnsupportedModelError(problems)


def _unsupported_numbers(graph_module: fx.GraphModule) -> list[str]:
    first: dict[torch.dtype, fx.Node] = {}
    for node in graph_module.graph.nodes:
        value = node.meta.get("val")
        if isinstance(value, torch.Tensor) and value.dtype not in _NUMBERS:
            first.setdefault(value.dtype, node)
    return [
        f"{str(dtype).removeprefix('torch.')} tensors (the first is {node.name}, in"
        f" {module_path(node) or 'the model itself'});"
        " convert the model and its inputs to FP32, in PyTorch with .float()"
        for dtype, node in first.items()
    ]


def import_stage(stage: fx.GraphModule, example_inputs: tuple[torch.Tensor, ...]) -> ImportedStage:
    """Import one stage of a split graph.

    Parameters
    ----------
    stage : fx.GraphModule
        ATen operations; every floating-point tensor it holds is an ``nn.Parameter``.
    example_inputs : tuple of Tensor
        Tensors of the stage's input shapes and dtypes.
    """
    program = torch.export.export(stage, example_inputs).run_decompositions(decomposition_table())
    importer = ExportedProgramImporter()
    module = importer.from_exported_program(
        program,
        keep_params_as_input=True,
        unwrap_unit_return_tuple=False,
        no_bind_return_tuple=False,
        custom_convert_map={**CONVERTERS, "linear.default": _linear},
    )
    module["main"] = with_sources(module["main"], imported_sources(importer.env, stage.graph))
    module, _ = relax.frontend.detach_params(module)
    weights = [spec.target for spec in program.graph_signature.input_specs if spec.kind is InputKind.PARAMETER]
    return ImportedStage(module, tuple(str(name) for name in weights))


def _linear(node: fx.Node, importer: BaseFXGraphImporter) -> relax.Var:
    """Keep the type of numbers; TVM's converter always makes FP32 of them."""
    arguments = [importer.env[argument] for argument in (*node.args, *node.kwargs.values()) if argument is not None]
    return importer.block_builder.emit(relax.op.linear(*arguments))
