"""Transposing a part of a matrix in registers."""

from __future__ import annotations

from collections.abc import Callable
from math import ceil
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from cospipe.backends.tvm.kernels.expressions import Expr
from cospipe.backends.tvm.kernels.loops import last_moved_back, read_vector

Element = Callable[[Expr, Expr], Expr]
"""Makes the load of a matrix element from its row and column."""


def transpose(target: Any, source: Element, rows: int, columns: int, lanes: int) -> None:
    """Store a matrix transposed: row after row of ``columns`` x ``rows`` in a flat buffer.

    Parameters
    ----------
    target : Var
        Flat buffer of rows x columns elements.
    source : callable
        Loads an element; neighbours in a row lie side by side in memory.
    rows, columns : int
        Of the source.
    lanes : int
        Of a vector register. A smaller matrix is copied element by element.
    """
    if rows < lanes or columns < lanes or lanes & (lanes - 1):
        with T.serial(columns) as column, T.serial(rows) as row:
            T.buffer_store(target, source(row, column), [column * rows + row])
        return
    with T.serial(ceil(rows / lanes)) as row_block, T.serial(ceil(columns / lanes)) as column_block:
        row, column = last_moved_back(row_block, lanes, rows), last_moved_back(column_block, lanes, columns)
        _transpose_block(target, source, row, column, rows, lanes)


def _transpose_block(target: Any, source: Element, row: Expr, column: Expr, rows: int, lanes: int) -> None:
    for i, vector in enumerate(transposed(lambda r, c: source(row + r, column + c), lanes)):
        with T.vectorized(lanes) as lane:
            T.buffer_store(target, vector[lane], [(column + i) * rows + row + lane])


def _read_row(source: Element, row: int, lanes: int) -> Any:
    return read_vector(lanes, lambda lane: source(row, lane))


def transposed(source: Element, lanes: int) -> list[Any]:
    """Return the columns of a square matrix as vectors.

    The lower half of the rows is interleaved with the upper: log2(lanes) times, and rows have become columns.
    """
    vectors = [_read_row(source, row, lanes) for row in range(lanes)]
    for _ in range(lanes.bit_length() - 1):
        halves = zip(vectors[: lanes // 2], vectors[lanes // 2 :], strict=True)
        vectors = [_interleaved(low, high, lanes, part) for low, high in halves for part in (0, lanes // 2)]
    return vectors


def _row(source: Element, row: Expr, column: Expr, lanes: int) -> Any:
    return read_vector(lanes, lambda lane: source(row, column + lane))


def _interleaved(first: Any, second: Any, lanes: int, start: int) -> Any:
    """Return elements of two vectors in turn, from the given position on."""
    result = T.alloc_buffer((lanes,), "float32", scope="global")
    whole = T.Ramp(0, 1, lanes)
    order = [position for i in range(start, start + lanes // 2) for position in (i, lanes + i)]
    T.buffer_store(result, tirx.Shuffle([first[whole], second[whole]], order), [whole])
    return result
