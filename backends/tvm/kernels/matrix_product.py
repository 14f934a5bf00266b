"""Products of matrices: linear layers over many tokens, and the batched products of attention.

A register tile of ``rows`` x ``vectors`` results is summed over the whole depth. Tiles of columns are the outer loop:
a weight comes from memory once and then from the L2 cache for every tile of rows. The right operand is a weight packed
for this (one stream a tile of columns), a matrix with rows as they lie in memory, or the transposition of one: then a
panel of the columns that are needed is transposed into a scratch buffer first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil, prod
from typing import Any

from tvm import te, tirx
from tvm.script.ir_builder import tirx as T

from cospipe.backends.tvm.kernels.expressions import Expr
from cospipe.backends.tvm.kernels.fused import FusedKernel
from cospipe.backends.tvm.kernels.loops import Sums, add_products, flat, last_moved_back, shared_items, unflatten
from cospipe.backends.tvm.kernels.transposition import Element, transpose
from cospipe.backends.tvm.tiling import Core

NAME = "matrix_product"


@dataclass(frozen=True)
class Operand:
    """Where the elements of a matrix lie in flat memory, as distances in elements.

    Parameters
    ----------
    offset : int
        Of the first element.
    batch : tuple of int
        From one matrix to the next along each batch axis of the result; 0 where all share one.
    row, column : int
        From one row, one column, to the next.
    """

    offset: int
    batch: tuple[int, ...]
    row: int
    column: int

    def position(self, batch: Sequence[Expr], row: Expr, column: Expr) -> Expr:
        """Return the position of an element."""
        first = sum((index * stride for index, stride in zip(batch, self.batch, strict=True)), self.offset)
        return first + row * self.row + column * self.column


@dataclass(frozen=True)
class MatrixProduct:
    """Independent products of matrices.

    Parameters
    ----------
    batch : tuple of int
        Extents of the result's axes that count independent products.
    row_axes : tuple of int
        Extents of the result's axes that together are the rows of one product.
    columns, depth : int
        Columns of the result, and how many products each element sums.
    left : Operand
        The left matrices.
    right : Operand or None
        The right matrices, depth as rows; None for a packed weight.
    tile_rows, tile_vectors, lanes : int
        The register tile. A vector is narrower than a register where the result is.
    """

    batch: tuple[int, ...]
    row_axes: tuple[int, ...]
    columns: int
    depth: int
    left: Operand
    right: Operand | None
    tile_rows: int
    tile_vectors: int
    lanes: int

    @classmethod
    def read(cls, options: dict[str, Any]) -> MatrixProduct:
        """Return the product that a kernel was declared with."""
        operands = {side: Operand(**options[side]) if options[side] else None for side in ("left", "right")}
        return cls(**{**options, **operands})

    @property
    def rows(self) -> int:
        """Rows of one product."""
        return prod(self.row_axes)

    @property
    def width(self) -> int:
        """Columns of a register tile."""
        return self.tile_vectors * self.lanes

    @property
    def column_tiles(self) -> int:
        """Register tiles side by side."""
        return ceil(self.columns / self.width)

    @property
    def row_tiles(self) -> int:
        """Register tiles below each other."""
        return ceil(self.rows / self.tile_rows)

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Shape of the result."""
        return *self.batch, *self.row_axes, self.columns

    @property
    def packed_shape(self) -> tuple[int, ...]:
        """Shape of a packed weight."""
        return self.column_tiles, self.depth, self.width

    @property
    def macs(self) -> int:
        """Multiply-accumulates."""
        return prod(self.output_shape) * self.depth

    def first_column(self, tile: Expr) -> Expr:
        """Return where a tile of columns starts; the last one is moved back so that it ends with the matrix."""
        return last_moved_back(tile, self.width, self.columns)

    @property
    def is_transposed(self) -> bool:
        """Whether the right matrix lies in memory with its columns as rows."""
        return self.right is not None and self.right.column != 1


def pack_weight(weight: te.Tensor, product: MatrixProduct, is_transposed: bool) -> te.Tensor:
    """Return a weight as (tiles of columns, depth, columns of a tile).

    Parameters
    ----------
    weight : te.Tensor
        Shape (depth, columns), or the other way round if it is transposed.
    product : MatrixProduct
        What it is packed for.
    is_transposed : bool
        Whether columns come first.
    """

    def element(tile: Expr, step: Expr, lane: Expr) -> Expr:
        column = product.first_column(tile) + lane
        return weight(column, step) if is_transposed else weight(step, column)

    return te.compute(product.packed_shape, element, name="packed_weight")


def emit(kernel: FusedKernel, core: Core) -> tirx.PrimFunc:
    """Return the product with its loops."""
    product = MatrixProduct.read(kernel.options)
    return kernel.emitted(lambda: _Emitter(kernel, product, core).emit())


class _Emitter:
    def __init__(self, kernel: FusedKernel, product: MatrixProduct, core: Core) -> None:
        self.kernel, self.product, self.core = kernel, product, core

    def emit(self) -> None:
        p = self.product
        inputs = self.kernel.inputs  # only one where both operands are parts of the same tensor
        self.left = flat(inputs[0])
        self.right = inputs[-1] if p.right is None else flat(inputs[-1])
        cycles = p.macs / (self.core.lanes * self.core.fma_per_cycle)
        if not p.is_transposed:
            with shared_items([*p.batch, p.column_tiles, p.row_tiles], cycles, self.core) as index:
                *batch, column_tile, row_tile = index
                self._tile(batch, p.first_column(column_tile), row_tile, self._weights(batch, column_tile))
            return
        with shared_items([*p.batch, p.column_tiles], cycles, self.core) as (*batch, column_tile):
            panel = self._transposed_panel(batch, p.first_column(column_tile))
            with T.serial(p.row_tiles) as row_tile:
                self._tile(batch, p.first_column(column_tile), row_tile, panel)

    def _weights(self, batch: Sequence[Expr], column_tile: Expr) -> Element:
        """Return how an element of the right matrix is read, by its row and its column of the tile."""
        p = self.product
        if p.right is None:
            return lambda step, column: self.right[column_tile, step, column]
        right, first = p.right, p.first_column(column_tile)
        return lambda step, column: self.right[right.position(batch, step, first + column)]

    def _transposed_panel(self, batch: Sequence[Expr], first_column: Expr) -> Element:
        p, right = self.product, self.product.right
        assert right is not None
        panel = T.alloc_buffer((p.depth * p.width,), "float32", scope="global")

        def source(column: Expr, step: Expr) -> Expr:
            return self.right[right.position(batch, step, first_column + column)]

        transpose(panel, source, p.width, p.depth, self.core.lanes)
        return lambda step, column: panel[step * p.width + column]

    def _tile(self, batch: Sequence[Expr], first_column: Expr, row_tile: Expr, weight: Element) -> None:
        p = self.product
        first_row = last_moved_back(row_tile, p.tile_rows, p.rows)
        sums = Sums(p.tile_rows, p.tile_vectors, p.lanes)
        self._add_products(sums, batch, first_row, weight)
        for vector in range(p.tile_vectors):
            for row in range(p.tile_rows):
                rows = unflatten(first_row + row, p.row_axes)
                with T.vectorized(p.lanes) as lane:
                    column = first_column + vector * p.lanes + lane
                    self.kernel.epilogue.store([*batch, *rows, column], sums.get(row, vector, lane))

    def _add_products(self, sums: Sums, batch: Sequence[Expr], first_row: Expr, weight: Element) -> None:
        """Sum over the whole depth: first as many steps as fill vectors, then the few that are left."""
        p = self.product
        whole = p.depth - p.depth % self.core.lanes
        for first, steps in ((0, whole), (whole, p.depth - whole)):
            if steps:
                rows = {row: self._row(batch, first_row + row, first) for row in range(p.tile_rows)}
                add_products(sums, rows, _from(weight, first), steps, self.core)

    def _row(self, batch: Sequence[Expr], row: Expr, first: int) -> Callable[[Expr], Expr]:
        return lambda step: self.left[self.product.left.position(batch, row, first + step)]


def _from(weight: Element, first: int) -> Element:
    return lambda step, column: weight(first + step, column)
