"""Linear layers on few rows: every weight is read once, so memory sets the pace and the weight is used as it is stored.

Packing it would cost a second copy in memory and win nothing. Vectors run along the depth; several outputs are summed
at once, so that several streams of weights are on their way from memory, and each sum is added up across its vector at
the end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, prod
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from cospipe.backends.tvm.kernels.expressions import Expr
from cospipe.backends.tvm.kernels.fused import FusedKernel
from cospipe.backends.tvm.kernels.loops import Sums, last_moved_back, shared_items, unflatten
from cospipe.backends.tvm.tiling import Core

NAME = "dot_products"


@dataclass(frozen=True)
class DotProducts:
    """The product of some rows with a transposed weight of shape (outputs, depth).

    Parameters
    ----------
    row_axes : tuple of int
        Extents of the result's axes that together are the rows.
    outputs, depth : int
        Of the weight.
    tile_rows, tile_outputs : int
        Dot products that are summed at once.
    """

    row_axes: tuple[int, ...]
    outputs: int
    depth: int
    tile_rows: int
    tile_outputs: int

    @property
    def rows(self) -> int:
        """Rows of the left matrix."""
        return prod(self.row_axes)

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Shape of the result."""
        return *self.row_axes, self.outputs


def emit(kernel: FusedKernel, core: Core) -> tirx.PrimFunc:
    """Return the product with its loops."""
    return kernel.emitted(lambda: _Emitter(kernel, DotProducts(**kernel.options), core).emit())


class _Emitter:
    def __init__(self, kernel: FusedKernel, product: DotProducts, core: Core) -> None:
        self.data, self.weight = kernel.inputs
        self.epilogue, self.product, self.core = kernel.epilogue, product, core

    def emit(self) -> None:
        p = self.product
        extents = [ceil(p.outputs / p.tile_outputs), ceil(p.rows / p.tile_rows)]
        cycles = p.rows * p.outputs * p.depth / self.core.lanes
        with shared_items(extents, cycles, self.core) as (output_tile, row_tile):
            first_output = last_moved_back(output_tile, p.tile_outputs, p.outputs)
            self._tile(last_moved_back(row_tile, p.tile_rows, p.rows), first_output)

    def _tile(self, first_row: Expr, first_output: Expr) -> None:
        p, lanes = self.product, self.core.lanes
        sums = Sums(p.tile_rows, p.tile_outputs, lanes)
        with T.serial(p.depth // lanes) as step:
            self._add(sums, first_row, first_output, step * lanes, lanes)
        if p.depth % lanes:
            self._add(sums, first_row, first_output, p.depth // lanes * lanes, p.depth % lanes)
        for row in range(p.tile_rows):
            totals = sums.across_lanes(row)
            index = unflatten(first_row + row, p.row_axes)
            with T.vectorized(p.tile_outputs) as output:
                self.epilogue.store([*index, first_output + output], totals[output])

    def _add(self, sums: Sums, first_row: Expr, first_output: Expr, step: Expr, width: int) -> None:
        for row in range(self.product.tile_rows):
            sums.add(
                row,
                lambda output, lane, row=row: (
                    self.data[(first_row + row) * self.product.depth + step + lane]
                    * self.weight[first_output + output, step + lane]
                ),
                width,
            )
