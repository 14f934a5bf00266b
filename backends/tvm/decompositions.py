"""Operations taken apart before the import, until only those are left that TVM's importer takes."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor, fx
from torch.export import default_decompositions
from tvm.relax.frontend.torch.exported_program_translator import ExportedProgramImporter

from cospipe.backends.tvm.rewrite_rules import RULES, Rule
from cospipe.backends.tvm.typed_converters import CONVERTERS
from cospipe.ir.graph import tensor_of

aten = torch.ops.aten

_IMPORTED_WRONGLY = frozenset({"_upsample_bilinear2d_aa.default"})
"""Its result is another one, and there is no other way to it."""
_PARTS_FAIL = frozenset({aten.im2col.default})
"""The importer takes every part but fails at how they are used."""
_POOLINGS_WITH_POSITIONS = frozenset(
    {
        aten.adaptive_max_pool2d.default,
        aten.adaptive_max_pool3d.default,
        aten.max_pool2d_with_indices.default,
        aten.max_pool3d_with_indices.default,
    }
)
"""Their maxima are right; what the importer makes of the positions is something else, and it says nothing."""


@cache
def imported_operations() -> frozenset[str]:
    """Return the names of all operations the importer takes, ``conv2d.default``."""
    return frozenset(CONVERTERS).union(ExportedProgramImporter().create_convert_map()) - _IMPORTED_WRONGLY


@cache
def decomposition_table() -> dict[Any, Rule]:
    """Return what to run an exported program's decompositions with, so that only imported operations are left."""
    by_pytorch: dict[Any, Rule] = dict(default_decompositions())
    kept = imported_operations()
    lacking = {op: rule for op, rule in by_pytorch.items() if op.__name__ not in kept and op not in _PARTS_FAIL}
    return {**lacking, **RULES}


def is_importable(node: fx.Node) -> bool:
    """Tell whether TVM's importer takes the operation of a node, or everything it is decomposed into."""
    if node.target in _POOLINGS_WITH_POSITIONS and any(reader.args[1] == 1 for reader in node.users):
        return False
    if operation_name(node) in imported_operations() or node.target in RULES:
        return True
    if node.target not in decomposition_table():
        return False
    try:
        program = torch.export.export(*_alone(node)).run_decompositions(decomposition_table())
    except RuntimeError:
        return False
    calls = [part for part in program.graph.nodes if part.op == "call_function"]
    return all(operation_name(part) in imported_operations() for part in calls)


def operation_name(node: fx.Node) -> str:
    """Return the importer's name of a node's operation, ``conv2d.default``."""
    return str(getattr(node.target, "__name__", node.target))


def _alone(node: fx.Node) -> tuple[fx.GraphModule, tuple[Tensor, ...]]:
    """Return a graph of one operation, and inputs of the shapes it has."""
    graph = fx.Graph()
    copies = {source: graph.placeholder(source.name) for source in node.all_input_nodes}
    graph.output(graph.node_copy(node, copies.__getitem__))
    described = [tensor_of(source) for source in copies]
    inputs = tuple(torch.empty(tensor.shape, dtype=tensor.dtype) for tensor in described)
    return fx.GraphModule({}, graph), inputs
