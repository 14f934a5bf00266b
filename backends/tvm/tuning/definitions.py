"""What declared kernels compute, as loops that say so: what MetaSchedule can schedule.

A declared kernel is a call to a symbol no library has, from which nothing can be learnt. Here it becomes a sum or a
maximum over the tensors that our kernel reads, weights packed for our tiles included, with the same operations fused
behind it. So a tuned kernel takes the place of ours without any other change to the stage.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import inf, prod
from typing import Any

from tvm import te, tirx
from tvm.s_tir import SBlock
from tvm_ffi import structural_walk

from cospipe.backends.tvm.kernels import convolution, depthwise, dot_products, matrix_product, pooling
from cospipe.backends.tvm.kernels.convolution import Convolution
from cospipe.backends.tvm.kernels.depthwise import Depthwise
from cospipe.backends.tvm.kernels.dot_products import DotProducts
from cospipe.backends.tvm.kernels.expressions import Expr, rewrite
from cospipe.backends.tvm.kernels.fused import FusedKernel, find_kernel
from cospipe.backends.tvm.kernels.loops import last_moved_back, unflatten
from cospipe.backends.tvm.kernels.matrix_product import MatrixProduct, Operand
from cospipe.backends.tvm.kernels.pooling import Pooling
from cospipe.backends.tvm.kernels.window import Window

Tensors = Sequence[te.Tensor]


def definition(function: tirx.PrimFunc) -> tirx.PrimFunc | None:
    """Return what a fused kernel computes, with the same parameters and without a schedule.

    Parameters
    ----------
    function : PrimFunc
        One kernel after FuseTIR, before it is scheduled.

    Returns
    -------
    PrimFunc or None
        None where there is nothing to tune: no rule here knows a declared kernel (Winograd's method, softmax, ...), or
        a kernel without declaration only copies or combines elements.
    """
    kernel = find_kernel(function)
    if kernel is None:
        return _plain(function) if _reduces(function) else None
    if kernel.name not in DEFINITIONS:
        return None
    return _defined(kernel)


def _plain(function: tirx.PrimFunc) -> tirx.PrimFunc:
    """Return a kernel nobody declared without the notes of our passes, which would tell equal kernels apart."""
    own = [name for name in dict(function.attrs or {}) if str(name).startswith("cospipe.")]
    for name in own:
        function = function.without_attr(name)
    return function.with_attr("global_symbol", "main")


def _reduces(function: tirx.PrimFunc) -> bool:
    blocks: list[SBlock] = []
    structural_walk(function.body, (SBlock, blocks.append))
    return any(axis.iter_type == tirx.IterVar.CommReduce for block in blocks for axis in block.iter_vars)


def _defined(kernel: FusedKernel) -> tirx.PrimFunc:
    epilogue = kernel.epilogue
    tensors = {
        parameter: te.placeholder(_shape(parameter), str(parameter.ty.dtype), name=parameter.name)
        for parameter in kernel.function.params
        if not parameter.same_as(epilogue.output)
    }
    result = DEFINITIONS[kernel.name](kernel.options, [tensors[source] for source in kernel.inputs])
    if not epilogue.output.same_as(epilogue.product):
        result = _finished(kernel, result, tensors)
    arguments = [tensors.get(parameter, result) for parameter in kernel.function.params]
    return te.create_prim_func(arguments)


def _finished(kernel: FusedKernel, product: te.Tensor, tensors: dict[Any, te.Tensor]) -> te.Tensor:
    epilogue = kernel.epilogue

    def element(*index: Expr) -> Expr:
        def load(buffer: Any, indices: Sequence[Expr]) -> Expr:
            return product(*indices) if buffer.same_as(epilogue.product) else tensors[buffer](*indices)

        return rewrite(epilogue.value, dict(zip(epilogue.axes, index, strict=True)), load)

    return te.compute(_shape(epilogue.output), element, name="result")


def _shape(buffer: Any) -> tuple[int, ...]:
    return tuple(int(extent) for extent in buffer.ty.shape)


def _convolution(options: dict[str, Any], inputs: Tensors) -> te.Tensor:
    c = Convolution.read(options)
    data, weight = inputs
    is_plain = len(data.shape) == 4
    image = _padded(data, c.rows, c.columns, neutral=0.0)
    block, row_tap, column_tap, lane = _reduction_axes(c.input_blocks, c.rows.kernel, c.columns.kernel, c.input_block)

    def element(number: Expr, channels: Expr, row: Expr, column: Expr, output: Expr) -> Expr:
        group, vector = (0, channels) if c.groups == 1 else (channels // c.vectors, channels % c.vectors)
        tile = vector // c.tile_vectors
        within = (vector - last_moved_back(tile, c.tile_vectors, c.vectors)) * c.output_block + output
        place = [
            number,
            group * c.input_blocks + block,
            *_position(c.rows, c.columns, row, column, row_tap, column_tap),
        ]
        read = image(*place) if is_plain else image(*place, lane)
        product = read * weight(group, tile, block, row_tap, column_tap, lane, within)
        return te.sum(product, axis=[block, row_tap, column_tap, lane])

    return te.compute(c.output_shape, element, name="convolution")


def _depthwise(options: dict[str, Any], inputs: Tensors) -> te.Tensor:
    c = Depthwise.read(options)
    data, weight = inputs
    image = _padded(data, c.rows, c.columns, neutral=0.0)
    row_tap, column_tap = _reduction_axes(c.rows.kernel, c.columns.kernel)

    def element(number: Expr, block: Expr, row: Expr, column: Expr, lane: Expr) -> Expr:
        place = _position(c.rows, c.columns, row, column, row_tap, column_tap)
        product = image(number, block, *place, lane) * weight(block, row_tap, column_tap, lane)
        return te.sum(product, axis=[row_tap, column_tap])

    return te.compute(c.output_shape, element, name="depthwise")


def _pooling(options: dict[str, Any], inputs: Tensors) -> te.Tensor:
    p = Pooling.read(options)
    combine, neutral = (te.max, -inf) if p.combination == "maximum" else (te.sum, 0.0)
    image = _padded(inputs[0], p.rows, p.columns, neutral)
    row_tap, column_tap = _reduction_axes(p.rows.kernel, p.columns.kernel)

    def element(number: Expr, block: Expr, row: Expr, column: Expr, lane: Expr) -> Expr:
        place = _position(p.rows, p.columns, row, column, row_tap, column_tap)
        return combine(image(number, block, *place, lane), axis=[row_tap, column_tap])

    return te.compute(p.output_shape, element, name="pooling")


def _matrix_product(options: dict[str, Any], inputs: Tensors) -> te.Tensor:
    p = MatrixProduct.read(options)
    left, right = inputs[0], inputs[-1]  # the same where both operands are parts of one tensor
    (step,) = _reduction_axes(p.depth)
    batch_axes = len(p.batch)

    def element(*index: Expr) -> Expr:
        batch, rows, column = index[:batch_axes], index[batch_axes:-1], index[-1]
        factor = _at(left, p.left, batch, _flattened(rows, p.row_axes), step)
        if p.right is None:
            tile = column // p.width
            return te.sum(factor * right(tile, step, column - p.first_column(tile)), axis=step)
        return te.sum(factor * _at(right, p.right, batch, step, column), axis=step)

    return te.compute(p.output_shape, element, name="matrix_product")


def _dot_products(options: dict[str, Any], inputs: Tensors) -> te.Tensor:
    p = DotProducts(**options)
    data, weight = inputs
    (step,) = _reduction_axes(p.depth)
    rows = Operand(offset=p.data_offset, batch=(), row=p.data_stride, column=1)

    def element(*index: Expr) -> Expr:
        factor = _at(data, rows, (), _flattened(index[:-1], tuple(p.row_axes)), step)
        return te.sum(factor * weight(index[-1], step), axis=step)

    return te.compute(p.output_shape, element, name="dot_products")


DEFINITIONS: dict[str, Callable[[dict[str, Any], Tensors], te.Tensor]] = {
    convolution.NAME: _convolution,
    depthwise.NAME: _depthwise,
    pooling.NAME: _pooling,
    matrix_product.NAME: _matrix_product,
    dot_products.NAME: _dot_products,
}
"""The kinds of kernels that can be tuned."""


def _reduction_axes(*extents: int) -> tuple[tirx.IterVar, ...]:
    return tuple(te.reduce_axis((0, extent), name=f"step{i}") for i, extent in enumerate(extents))


def _padded(data: te.Tensor, rows: Window, columns: Window, neutral: float) -> te.Tensor:
    """Return an image, with channel blocks or without, with a border where the window leaves it."""
    if not (rows.leaves_image or columns.leaves_image):
        return data
    number, channels, height, width, *lanes = (int(extent) for extent in data.shape)
    shape = (number, channels, _reach(rows), _reach(columns), *lanes)

    def element(image: Expr, channel: Expr, row: Expr, column: Expr, *lane: Expr) -> Expr:
        top, left = row - rows.padding, column - columns.padding
        is_inside = tirx.all(top >= 0, top < height, left >= 0, left < width)
        return tirx.if_then_else(is_inside, data(image, channel, top, left, *lane), tirx.const(neutral, "float32"))

    return te.compute(shape, element, name="padded")


def _reach(window: Window) -> int:
    """Return how many rows (or columns) of a padded image the window reads."""
    return (window.output - 1) * window.stride + (window.kernel - 1) * window.dilation + 1


def _position(
    rows: Window, columns: Window, row: Expr, column: Expr, row_tap: Expr, column_tap: Expr
) -> tuple[Expr, Expr]:
    """Return where a tap of an output lies in the padded image, or in one that no window leaves."""
    leaves = rows.leaves_image or columns.leaves_image
    shift = (rows.padding, columns.padding) if leaves else (0, 0)
    return rows.position(row, row_tap) + shift[0], columns.position(column, column_tap) + shift[1]


def _at(tensor: te.Tensor, operand: Operand, batch: Sequence[Expr], row: Expr, column: Expr) -> Expr:
    """Return an element of a matrix that lies somewhere in the flat memory of a tensor."""
    position = operand.position(batch, row, column)
    return tensor(*unflatten(position, [int(extent) for extent in tensor.shape]))


def _flattened(index: Sequence[Expr], extents: Sequence[int]) -> Expr:
    return sum((i * prod(extents[place + 1 :]) for place, i in enumerate(index)), tirx.const(0, "int32"))
