"""Products of matrices: linear layers over many tokens, and the batched products of attention.

A register tile of ``rows`` x ``vectors`` results is summed over the whole depth. Tiles of columns are the outer loop, so
a weight comes from memory once and then from the L2 cache for every tile of rows. The right operand is a weight packed
for this (one stream a tile of columns), a matrix with rows as they lie in memory, or the transposition of one: then a
panel of the columns that are needed is transposed into a scratch buffer first.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import ceil, prod
from typing import Any

from tvm import te, tirx
from tvm.script.ir_builder import tirx as T

from cospipe.backends.tvm.kernels.expressions import Expr
from cospipe.backends.tvm.kernels.fused import FusedKernel
from cospipe.backends.tvm.kernels.loops import Sums, add_products, last_moved_back, shared_items
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

    def at(self, batch: Sequence[Expr], row: Expr, column: Expr) -> Expr:
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
        The register tile.
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
        return last_moved_back(tile, self.width, max(self.columns, self.width))

    def vector_columns(self, vector: int) -> int:
        """Return how many columns of a vector exist."""
        return max(0, min(self.lanes, self.columns - vector * self.lanes))


def pack_weight(weight: te.Tensor, product: MatrixProduct, is_transposed: bool) -> te.Tensor:
    """Return a weight as (tiles of columns, depth, columns of a tile), zeros where there are fewer columns than in one.

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
        value = weight(column, step) if is_transposed else weight(step, column)
        if product.columns >= product.width:
            return value
        return tirx.if_then_else(column < product.columns, value, tirx.const(0.0, "float32"))

    return te.compute(product.packed_shape, element, name="packed_weight")


def emit(kernel: FusedKernel, core: Core) -> tirx.PrimFunc:
    """Return the product with its loops."""
    product = MatrixProduct.read(kernel.options)
    return kernel.emitted(lambda: _Emitter(kernel, product, core).emit())


class _Emitter:
    def __init__(self, kernel: FusedKernel, product: MatrixProduct, core: Core) -> None:
        self.left, self.right = kernel.inputs
        self.epilogue, self.product, self.core = kernel.epilogue, product, core

    def emit(self) -> None:
        p = self.product
        extents = [*p.batch, p.column_tiles, p.row_tiles]
        cycles = p.macs / (self.core.lanes * self.core.fma_per_cycle)
        with shared_items(extents, cycles, self.core) as (*batch, column_tile, row_tile):
            self._tile(batch, column_tile, last_moved_back(row_tile, p.tile_rows, p.rows))

    def _tile(self, batch: Sequence[Expr], column_tile: Expr, first_row: Expr) -> None:
        p = self.product
        sums = Sums(p.tile_rows, p.tile_vectors, p.lanes)
        whole = p.depth // self.core.lanes * self.core.lanes if self.core.multiplies_by_lane else p.depth
        for first, steps in ((0, whole), (whole, p.depth - whole)):
            if not steps:
                continue
            rows = {
                row: (lambda step, row=row, first=first: self.left[p.left.at(batch, first_row + row, first + step)])
                for row in range(p.tile_rows)
            }

            def weight(step: Expr, column: Expr) -> Expr:
                return self._right(batch, column_tile, first + step, column)

            add_products(sums, rows, weight, steps, self.core)
        self._store(sums, batch, column_tile, first_row)

    def _right(self, batch: Sequence[Expr], column_tile: Expr, step: Expr, column: Expr) -> Expr:
        p = self.product
        if p.right is None:
            return self.right[column_tile, step, column]
        return self.right[p.right.at(batch, step, p.first_column(column_tile) + column)]

    def _store(self, sums: Sums, batch: Sequence[Expr], column_tile: Expr, first_row: Expr) -> None:
        p = self.product
        for vector in range(p.tile_vectors):
            for row in range(p.tile_rows):
                with T.vectorized(p.vector_columns(vector) if p.columns < p.width else p.lanes) as lane:
                    column = p.first_column(column_tile) + vector * p.lanes + lane
                    index = [*batch, *self._row_index(first_row + row), column]
                    self.epilogue.store(index, sums.get(row, vector, lane))

    def _row_index(self, row: Expr) -> list[Expr]:
        index: list[Expr] = []
        for extent in reversed(self.product.row_axes[1:]):
            index.insert(0, row % extent)
            row = row // extent
        return [row, *index]
