"""Linear layers on few rows: every weight is read once, so memory sets the pace and the weight is used as it is stored.

Packing it would cost a second copy in memory and win nothing. Vectors run along the depth; several outputs are summed
at once, so that several streams of weights are on their way from memory, and each sum is added up across its vector at
the end.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import ceil, prod
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from cospipe.backends.tvm.kernels.expressions import Expr
from cospipe.backends.tvm.kernels.fused import FusedKernel
from cospipe.backends.tvm.kernels.loops import Sums, flat, last_moved_back, read_vector, shared_items, unflatten
from cospipe.backends.tvm.tiling import Core

NAME = "dot_products"

_CACHE_LINE = 16
"""FP32 numbers that come from memory together."""


@dataclass(frozen=True)
class DotProducts:
    """The product of some rows with a transposed weight of shape (outputs, depth).

    Parameters
    ----------
    row_axes : tuple of int
        Extents of the result's axes that together are the rows.
    outputs, depth : int
        Of the weight.
    data_offset, data_stride : int
        Where the first row lies in flat memory, and how far on the next.
    tile_rows, tile_outputs : int
        Dot products that are summed at once.
    """

    row_axes: tuple[int, ...]
    outputs: int
    depth: int
    data_offset: int
    data_stride: int
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
        self.kernel, self.product, self.core = kernel, product, core
        self.weight = kernel.inputs[1]

    def emit(self) -> None:
        p = self.product
        self.data = flat(self.kernel.inputs[0])
        extents = [ceil(p.outputs / p.tile_outputs), ceil(p.rows / p.tile_rows)]
        cycles = p.rows * p.outputs * p.depth / self.core.lanes
        with shared_items(extents, cycles, self.core) as (output_tile, row_tile):
            first_output = last_moved_back(output_tile, p.tile_outputs, p.outputs)
            self._tile(last_moved_back(row_tile, p.tile_rows, p.rows), first_output)

    def _tile(self, first_row: Expr, first_output: Expr) -> None:
        p, lanes = self.product, self.core.lanes
        sums = Sums(p.tile_rows, p.tile_outputs, lanes)
        line = max(lanes, _CACHE_LINE)
        with T.serial(p.depth // line) as step:
            for first in range(0, line, lanes):
                self._add_products(sums, first_row, first_output, step * line + first)
        for first in range(p.depth // line * line, p.depth - lanes + 1, lanes):
            self._add_products(sums, first_row, first_output, first)
        if counted := -p.depth % lanes:
            self._add_products(sums, first_row, first_output, p.depth - lanes, counted)
        for row in range(p.tile_rows):
            self._store(_totals(sums, row), first_row + row, first_output)

    def _add_products(
        self, sums: Sums, first_row: Expr, first_output: Expr, first_step: Expr, counted: int = 0
    ) -> None:
        """Add the products of a vector of steps; ``counted`` of them were added before."""
        p = self.product

        def product(row: int, output: int, lane: Expr) -> Expr:
            data = self.data[p.data_offset + (first_row + row) * p.data_stride + first_step + lane]
            if counted:
                data = tirx.Select(lane >= counted, data, tirx.const(0.0, "float32"))
            return data * self.weight[first_output + output, first_step + lane]

        sums.add({row: partial(product, row) for row in range(p.tile_rows)})

    def _store(self, totals: Any, row: Expr, first_output: Expr) -> None:
        with T.vectorized(self.product.tile_outputs) as output:
            index = [*unflatten(row, self.product.row_axes), first_output + output]
            self.kernel.epilogue.store(index, totals[output])


def _totals(sums: Sums, row: int) -> Any:
    """Add up each sum of a row across its vector."""
    totals = T.alloc_buffer((sums.vectors,), "float32", scope="global")
    for vector in range(sums.vectors):
        T.buffer_store(totals, _total(partial(sums.get, row, vector), sums.lanes), [vector])
    return totals


def _total(value: Callable[[Expr], Expr], lanes: int) -> Expr:
    """Add the upper half of a vector to the lower one until one number is left."""
    if lanes == 1:
        return value(0)
    half = lanes // 2
    added = read_vector(half, lambda lane: value(lane) + value(lane + half))
    return _total(lambda lane: added[lane], half)
