"""Matrix products: which kernel computes one, how it reads its operands, and how its weight is packed."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

from tvm import relax

from cospipe.backends.tvm.kernels import dot_products, matrix_product
from cospipe.backends.tvm.kernels.dot_products import DotProducts
from cospipe.backends.tvm.kernels.fused import call_attributes, declare
from cospipe.backends.tvm.kernels.matrix_product import MatrixProduct, Operand
from cospipe.backends.tvm.layout import Expr, LayoutRewriter, Rule, Value, shape_of
from cospipe.backends.tvm.layout_rules.views import View, contiguous, reshaped, view_of
from cospipe.backends.tvm.product_tiling import dot_tile, matrix_tile
from cospipe.backends.tvm.tiling import FP32_BYTES

_FEW_ROWS = 3
"""Up to here, reading a weight from memory takes longer than multiplying with it."""


def matmul(layout: LayoutRewriter, call: relax.Call) -> Value | None:
    """Rewrite a product of matrices, or of batches of matrices."""
    if any(tensor.ty.dtype != "float32" or len(shape_of(tensor)) < 2 for tensor in (*call.args, call)):
        return None
    left, right = call.args
    if prod(shape_of(right)[:-2]) > 1:
        return Value(shape_of(call), plain=_batched(layout, left, right, shape_of(call)))
    if len(shape_of(right)) == 2 and layout.is_weight(right):
        return Value(shape_of(call), plain=_linear(layout, left, right, shape_of(call)))
    return Value(shape_of(call), plain=_with_one_matrix(layout, left, right, shape_of(call)))


def _linear(layout: LayoutRewriter, left: Expr, right: Expr, shape: Sequence[int]) -> Expr:
    """Multiply all rows of a tensor, whatever its axes, with the same weight."""
    *row_axes, outputs = shape
    depth, rows = shape_of(right)[0], prod(row_axes)
    stored = _stored_transposed(view_of(layout, right))
    is_light = rows <= _FEW_ROWS or outputs < layout.core.lanes
    data = _as_rows(layout, left, rows, depth)
    if stored is not None and is_light and depth >= layout.core.lanes:
        tile = dot_tile(rows, outputs, depth * FP32_BYTES, layout.core)
        dots = DotProducts(tuple(row_axes), outputs, depth, data.offset, data.strides[0], tile.pixels, tile.vectors)
        return _declared(layout, dot_products.NAME, dots, data.base, stored)
    product = _product(layout, (), row_axes, outputs, depth, _operand(data, ()), None)
    packed = layout.compute(
        lambda weight: matrix_product.pack_weight(weight, product, stored is not None),
        layout.plain(right) if stored is None else stored,
        primfunc_name_hint="pack_weight",
    )
    return _declared(layout, matrix_product.NAME, product, data.base, packed)


def _with_one_matrix(layout: LayoutRewriter, left: Expr, right: Expr, shape: Sequence[int]) -> Expr:
    """Multiply all rows of a tensor with the same computed matrix."""
    *row_axes, outputs = shape
    depth = shape_of(right)[-2]
    data, matrix = _as_rows(layout, left, prod(row_axes), depth), _as_right(layout, right)
    product = _product(layout, (), row_axes, outputs, depth, _operand(data, ()), _operand(matrix, ()))
    return _declared(layout, matrix_product.NAME, product, data.base, matrix.base)


def _batched(layout: LayoutRewriter, left: Expr, right: Expr, shape: Sequence[int]) -> Expr:
    *batch, rows, outputs = shape
    depth = shape_of(right)[-2]
    data, matrix = _with_neighbours(layout, left, (-1,)), _as_right(layout, right)
    operands = _operand(data, batch), _operand(matrix, batch)
    product = _product(layout, batch, [rows], outputs, depth, *operands)
    return _declared(layout, matrix_product.NAME, product, data.base, matrix.base)


def _product(
    layout: LayoutRewriter,
    batch: Sequence[int],
    row_axes: Sequence[int],
    columns: int,
    depth: int,
    left: Operand,
    right: Operand | None,
) -> MatrixProduct:
    tile = matrix_tile(prod(row_axes), columns, left.row * FP32_BYTES, layout.core)
    lanes = min(layout.core.lanes, columns)
    return MatrixProduct(tuple(batch), tuple(row_axes), columns, depth, left, right, tile.pixels, tile.vectors, lanes)


def _declared(layout: LayoutRewriter, name: str, product: Any, *inputs: Expr) -> Expr:
    return layout.compute(
        lambda *tensors: declare(name, product.output_shape, product, *tensors),
        *inputs,
        primfunc_name_hint=name,
        primfunc_attrs=call_attributes(),
    )


def _stored_transposed(weight: View) -> Expr | None:
    """Return the weight as a linear layer stores it, (outputs, depth), if that is what was transposed."""
    depth, outputs = weight.shape
    is_whole = weight.offset == 0 and weight.strides == (1, depth) and shape_of(weight.base) == (outputs, depth)
    return weight.base if is_whole else None


def _as_rows(layout: LayoutRewriter, tensor: Expr, rows: int, depth: int) -> View:
    """Return a tensor as one matrix whose rows lie in one piece each, a fixed distance apart."""
    view = reshaped(view_of(layout, tensor), (rows, depth))
    if view is not None and (view.strides[1] == 1 or depth == 1):
        return view
    plain = layout.plain(tensor)
    return View(plain, (rows, depth), 0, (depth, 1))


def _as_right(layout: LayoutRewriter, tensor: Expr) -> View:
    """Return right matrices whose rows, or whose columns, lie in one piece."""
    return _with_neighbours(layout, tensor, (-1, -2))


def _with_neighbours(layout: LayoutRewriter, tensor: Expr, axes: Sequence[int]) -> View:
    view = view_of(layout, tensor)
    if any(view.strides[axis] == 1 or view.shape[axis] == 1 for axis in axes):
        return view
    return contiguous(layout.plain(tensor))


def _operand(view: View, batch: Sequence[int]) -> Operand:
    """Return how matrices are read for every index of the result's batch axes; missing axes are repeated."""
    *own, _, _ = (0 if extent == 1 else stride for extent, stride in zip(view.shape, view.strides, strict=True))
    row, column = (1 if e == 1 else s for e, s in zip(view.shape[-2:], view.strides[-2:], strict=True))
    strides = [0] * (len(batch) - len(own)) + own
    return Operand(view.offset, tuple(strides[len(strides) - len(batch) :]), row, column)


RULES: dict[str, Rule] = {"relax.matmul": matmul}
