"""Softmax along rows that lie in one piece.

The largest number of a row is subtracted first, so that no exponential is too large; the exponentials are kept on the
stack until their sum is known. A row that is too long for that has them computed twice.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from cospipe.backends.tvm.kernels.expressions import Expr
from cospipe.backends.tvm.kernels.fused import FusedKernel
from cospipe.backends.tvm.kernels.loops import element, on_stack, shared_items
from cospipe.backends.tvm.kernels.rows import MAXIMUM, SUM, Row, once
from cospipe.backends.tvm.tiling import Core

NAME = "softmax"
_LONGEST_ON_STACK = 4096
_CYCLES_OF_VECTOR = 24


@dataclass(frozen=True)
class Softmax:
    """A softmax along the last axis.

    Parameters
    ----------
    shape : tuple of int
        Of input and result.
    is_logarithm : bool
        Whether the logarithm of the shares is computed.
    """

    shape: tuple[int, ...]
    is_logarithm: bool


def emit(kernel: FusedKernel, core: Core) -> tirx.PrimFunc:
    """Return the softmax with its loops."""
    softmax = Softmax(**kernel.options)
    return kernel.emitted(lambda: _emit(kernel, softmax, core))


def _emit(kernel: FusedKernel, softmax: Softmax, core: Core) -> None:
    *outer, length = softmax.shape
    row = Row.of(length, core)
    cycles = prod(outer) * length / row.lanes * _CYCLES_OF_VECTOR
    with shared_items(outer, cycles, core) as index:
        if softmax.is_logarithm:
            _emit_logarithm(kernel, row, index)
        else:
            _emit_row(kernel, row, index)


def _emit_row(kernel: FusedKernel, row: Row, index: list[Expr]) -> None:
    (data,) = kernel.inputs
    largest = once(row.fold(MAXIMUM, lambda position: element(data, *index, position)))
    if row.length > _LONGEST_ON_STACK:
        share = once(1.0 / _sum(kernel, row, index, largest))
        row.each(lambda p: kernel.epilogue.store([*index, p], T.exp(element(data, *index, p) - largest) * share))
        return
    exponentials = on_stack((row.length,))

    def exponential(position: Expr) -> Expr:
        T.buffer_store(exponentials, T.exp(element(data, *index, position) - largest), [position])
        return exponentials[position]

    share = once(1.0 / row.fold(SUM, exponential))
    row.each(lambda position: kernel.epilogue.store([*index, position], exponentials[position] * share))


def _emit_logarithm(kernel: FusedKernel, row: Row, index: list[Expr]) -> None:
    (data,) = kernel.inputs
    largest = once(row.fold(MAXIMUM, lambda position: element(data, *index, position)))
    logarithm = once(T.log(_sum(kernel, row, index, largest)))
    row.each(lambda p: kernel.epilogue.store([*index, p], element(data, *index, p) - largest - logarithm))


def _sum(kernel: FusedKernel, row: Row, index: list[Expr], largest: Expr) -> Expr:
    (data,) = kernel.inputs
    return row.fold(SUM, lambda position: T.exp(element(data, *index, position) - largest))
