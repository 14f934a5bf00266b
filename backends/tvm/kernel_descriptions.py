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


def describe_kernels(module: tvm.IRModule) -> tuple[KernelDescription, ...]:
    """Return what is known of every scheduled kernel of a module, those of weight preparation included."""
    return tuple(
        _description(variable.name_hint, function)
        for variable, function in module.functions.items()
        if isinstance(function, tirx.PrimFunc)
    )


def _description(name: str, function: tirx.PrimFunc) -> KernelDescription:
    if emitted := emitted_kernel(function):
        return KernelDescription(name, *emitted)
    return KernelDescription(name, GENERIC_REDUCTION if _reduces(function) else GENERIC_ELEMENTWISE, {})


def _reduces(function: tirx.PrimFunc) -> bool:
    blocks: list[SBlock] = []
    structural_walk(function.body, (SBlock, blocks.append))
    return any(axis.iter_type == tirx.IterVar.CommReduce for block in blocks for axis in block.iter_vars)
