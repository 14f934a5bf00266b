"""What became of the kernels of a stage: which kind each is, and with which options its loops were emitted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import tvm
from tvm import tirx
from tvm.s_tir import SBlock
from tvm_ffi import structural_walk

from cospipe.backends.tvm.kernels.fused import emitted_kernel

GENERIC_REDUCTION, GENERIC_ELEMENTWISE = "generic reduction", "generic elementwise"
"""Kinds of kernels that no rule declared: with a sum, maximum, ... over some axis, and without."""
_REDUCES = "cospipe.reduces"


@dataclass(frozen=True)
class KernelDescription:
    """One kernel of a compiled stage.

    Parameters
    ----------
    name : str
        What the virtual machine calls.
    kind : str
        Name of a declared kernel, or one of the two generic kinds.
    options : mapping
        What it was declared with; empty for a generic one.
    """

    name: str
    kind: str
    options: Mapping[str, Any]

    @property
    def is_generic(self) -> bool:
        """Whether no rule knew it, so that its loops have the generic schedule."""
        return self.kind in (GENERIC_REDUCTION, GENERIC_ELEMENTWISE)


@tvm.transform.module_pass(opt_level=0, name="NoteReductions")  # type: ignore[untyped-decorator]
def note_reductions(module: tvm.IRModule, _context: tvm.transform.PassContext) -> tvm.IRModule:
    """Note which kernels reduce; runs before their loops are made, which no longer tell."""
    noted = tvm.IRModule(module.functions, attrs=module.attrs)
    for variable, function in module.functions.items():
        if isinstance(function, tirx.PrimFunc):
            noted[variable] = function.with_attr(_REDUCES, _reduces(function))
    return noted


def _reduces(function: tirx.PrimFunc) -> bool:
    blocks: list[SBlock] = []
    structural_walk(function.body, (SBlock, blocks.append))
    return any(axis.iter_type == tirx.IterVar.CommReduce for block in blocks for axis in block.iter_vars)


def describe_kernels(module: tvm.IRModule) -> tuple[KernelDescription, ...]:
    """Return what is known of every kernel of a module after ``note_reductions``; those that prepare weights too."""
    return tuple(
        _description(variable.name_hint, function)
        for variable, function in module.functions.items()
        if isinstance(function, tirx.PrimFunc)
    )


def _description(name: str, function: tirx.PrimFunc) -> KernelDescription:
    if emitted := emitted_kernel(function):
        return KernelDescription(name, *emitted)
    # What TVM itself adds after the note, a sort or a cumulative sum, is no elementwise kernel.
    reduces = dict(function.attrs or {}).get(_REDUCES, True)
    return KernelDescription(name, GENERIC_REDUCTION if reduces else GENERIC_ELEMENTWISE, {})
