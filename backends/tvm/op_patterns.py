"""Correcting what Relax thinks of padding and cutting.

It calls an operation elementwise that reads and writes at the same index. That is also true of padding behind an image,
or of taking its first rows. But a kernel with such an operation fused behind it would store as many elements as it
computes: too few of a padded result, and beyond the end of a cut one.
"""

from __future__ import annotations

from typing import Any

import tvm
from tvm import tirx
from tvm.s_tir import SBlock
from tvm_ffi import structural_walk

from cospipe.backends.tvm.kernels.fused import INJECTIVE

_ELEMENTWISE, _BROADCAST = 0, 1
_PATTERN = "op_pattern"


@tvm.transform.module_pass(opt_level=0, name="CorrectOpPatterns")  # type: ignore[untyped-decorator]
def correct_op_patterns(module: tvm.IRModule, _context: tvm.transform.PassContext) -> tvm.IRModule:
    """Call every operation injective that pads or cuts; runs between AnnotateTIROpPattern and FuseOps."""
    corrected = tvm.IRModule(module.functions, attrs=module.attrs)
    for name, function in module.functions.items():
        if _is_called_elementwise(function) and _changes_extents(function):
            corrected[name] = function.with_attr(_PATTERN, INJECTIVE)
    return corrected


def _is_called_elementwise(function: Any) -> bool:
    if not isinstance(function, tirx.PrimFunc) or not function.attrs or _PATTERN not in function.attrs:
        return False
    return int(function.attrs[_PATTERN]) in (_ELEMENTWISE, _BROADCAST)


def _changes_extents(function: tirx.PrimFunc) -> bool:
    """Tell whether any tensor is read along an axis of the result that is longer or shorter than its own."""
    blocks: list[SBlock] = []
    structural_walk(function.body, (SBlock, blocks.append))
    return any(_reads_other_extents(block) for block in blocks)


def _reads_other_extents(block: SBlock) -> bool:
    extents = {axis.var: int(axis.dom.extent) for axis in block.iter_vars}
    loads: list[Any] = []
    structural_walk(block.body, (tvm.ir.TensorLoad, loads.append))
    return any(
        extents.get(index, int(extent)) != int(extent)
        for load in loads
        for index, extent in zip(load.indices, load.source.ty.shape, strict=True)
    )
