"""Layer normalisation of rows that lie in one piece.

The mean is known before deviations from it are squared: their sum keeps its digits where the mean is large.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from cospipe.backends.tvm.kernels.expressions import Expr
from cospipe.backends.tvm.kernels.fused import FusedKernel
from cospipe.backends.tvm.kernels.loops import element, shared_items
from cospipe.backends.tvm.kernels.rows import SUM, Row, once
from cospipe.backends.tvm.tiling import Core

NAME = "layer_norm"
_CYCLES_OF_VECTOR = 8


@dataclass(frozen=True)
class LayerNorm:
    """A layer normalisation along the last axis.

    Parameters
    ----------
    shape : tuple of int
        Of input and result.
    epsilon : float
        Added to the variance.
    """

    shape: tuple[int, ...]
    epsilon: float


def emit(kernel: FusedKernel, core: Core) -> tirx.PrimFunc:
    """Return the layer normalisation with its loops."""
    norm = LayerNorm(**kernel.options)
    return kernel.emitted(lambda: _emit(kernel, norm, core))


def _emit(kernel: FusedKernel, norm: LayerNorm, core: Core) -> None:
    *outer, length = norm.shape
    row = Row.of(length, core)
    cycles = prod(outer) * length / row.lanes * _CYCLES_OF_VECTOR
    with shared_items(outer, cycles, core) as index:
        _emit_row(kernel, row, index, norm.epsilon)


def _emit_row(kernel: FusedKernel, row: Row, index: list[Expr], epsilon: float) -> None:
    data, scale, shift = kernel.inputs
    mean = once(row.fold(SUM, lambda position: element(data, *index, position)) * tirx.const(1 / row.length, "float32"))

    def square(position: Expr) -> Expr:
        deviation = element(data, *index, position) - mean
        return deviation * deviation

    variance = row.fold(SUM, square) * tirx.const(1 / row.length, "float32")
    factor = once(1.0 / T.sqrt(variance + tirx.const(epsilon, "float32")))

    def store(position: Expr) -> None:
        normal = (element(data, *index, position) - mean) * factor
        kernel.epilogue.store([*index, position], normal * scale[position] + shift[position])

    row.each(store)
