"""Pooling and averages over images on channel blocks."""

from __future__ import annotations

import numpy as np
from tvm import relax

from cospipe.backends.tvm.kernels import pooling as kernel
from cospipe.backends.tvm.kernels.fused import call_attributes, declare
from cospipe.backends.tvm.kernels.pooling import Pooling
from cospipe.backends.tvm.kernels.window import Window
from cospipe.backends.tvm.layout import Expr, LayoutRewriter, Rule, Value, shape_of
from cospipe.backends.tvm.tiling import largest_divisor

_MOST_GLOBAL_COLUMNS = 16


def maximum_pool(layout: LayoutRewriter, call: relax.Call) -> Value | None:
    """Take the maximum under a sliding window."""
    if not _is_worth_blocks(layout, call):
        return None
    rows, columns = _windows(layout, call)
    return Value(shape_of(call), blocked=_pooled(layout, "maximum", layout.blocked(call.args[0]), rows, columns))


def average_pool(layout: LayoutRewriter, call: relax.Call) -> Value | None:
    """Take the average under a sliding window: the sum, times one over how many positions each output counts."""
    if not _is_worth_blocks(layout, call):
        return None
    rows, columns = _windows(layout, call)
    top, left, bottom, right = (int(p) if call.attrs.count_include_pad else 0 for p in call.attrs.padding)
    counts = np.outer(_counts(rows, -top, bottom), _counts(columns, -left, right))
    total = _pooled(layout, "sum", layout.blocked(call.args[0]), rows, columns)
    return Value(shape_of(call), blocked=_divided(layout, total, counts))


def _windows(layout: LayoutRewriter, call: relax.Call) -> tuple[Window, Window]:
    image, result, attributes = layout.value(call.args[0]).shape, shape_of(call), call.attrs
    rows, columns = (
        Window(
            image[2 + axis],
            result[2 + axis],
            int(attributes.pool_size[axis]),
            int(attributes.strides[axis]),
            int(attributes.padding[axis]),
            int(attributes.dilation[axis]),
        )
        for axis in (0, 1)
    )
    return rows, columns


def _counts(window: Window, first: int, behind_end: int) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    """Return how many positions each output averages over, of those from ``first`` to ``behind_end`` after the end."""
    starts = np.arange(window.output) * window.stride - window.padding
    ends = starts + (window.kernel - 1) * window.dilation + 1
    inside = np.minimum(ends, window.input + behind_end) - np.maximum(starts, first)
    return (-(-inside // window.dilation)).astype("float32")


def adaptive_average_pool(layout: LayoutRewriter, call: relax.Call) -> Value | None:
    """Take averages over equal parts of the image."""
    image, result = layout.value(call.args[0]).shape, shape_of(call)
    if image == result:
        return layout.value(call.args[0])
    if result[2:] == (1, 1):
        return _global_average(layout, call) if layout.value(call.args[0]).is_blocked else None
    if image[2] % result[2] or image[3] % result[3] or not _is_worth_blocks(layout, call):
        return None
    windows = [Window(image[axis], result[axis], *(image[axis] // result[axis],) * 2, 0, 1) for axis in (2, 3)]
    total = _pooled(layout, "sum", layout.blocked(call.args[0]), *windows)
    return Value(result, blocked=_divided(layout, total, np.full((1, 1), windows[0].kernel * windows[1].kernel)))


def mean(layout: LayoutRewriter, call: relax.Call) -> Value | None:
    """Take the average of every channel of an image."""
    value = layout.value(call.args[0])
    if len(value.shape) != 4 or not value.is_blocked or not call.attrs.axis:
        return None
    if {int(axis) % 4 for axis in call.attrs.axis} != {2, 3}:
        return None
    averages = _global_average(layout, call)
    return averages if call.attrs.keepdims else layout.emit(_as_vectors(layout, averages))


def _as_vectors(layout: LayoutRewriter, averages: Value) -> Expr:
    """Return an image of one pixel in channel blocks as a matrix of images x channels."""
    images, channels = averages.shape[:2]
    filled = shape_of(averages.blocked)[1] * shape_of(averages.blocked)[-1]
    vectors = relax.op.reshape(averages.blocked, (images, filled))
    if filled == channels:
        return vectors
    return relax.op.strided_slice(layout.emit_expression(vectors), axes=[1], begin=[0], end=[channels])


def _global_average(layout: LayoutRewriter, call: relax.Call) -> Value:
    """Average whole images, as if they were rows of a length that fits the registers."""
    source = layout.blocked(call.args[0])
    images, blocks, rows, columns, block = shape_of(source)
    width = largest_divisor(rows * columns, _MOST_GLOBAL_COLUMNS)
    height = rows * columns // width
    if width != columns:
        source = layout.emit_expression(relax.op.reshape(source, (images, blocks, height, width, block)))
    total = _pooled(layout, "sum", source, Window(height, 1, height, 1, 0, 1), Window(width, 1, width, 1, 0, 1))
    shape = (*layout.value(call.args[0]).shape[:2], 1, 1)
    return Value(shape, blocked=_divided(layout, total, np.full((1, 1), rows * columns)))


def _pooled(layout: LayoutRewriter, combination: str, source: Expr, rows: Window, columns: Window) -> Expr:
    described = Pooling.choose(combination, shape_of(source), rows, columns, layout.core)
    return layout.compute(
        lambda data: declare(kernel.NAME, described.output_shape, described, data),
        source,
        primfunc_name_hint=f"pooling_{combination}",
        primfunc_attrs=call_attributes(),
    )


def _divided(layout: LayoutRewriter, total: Expr, counts: np.ndarray[tuple[int, int], np.dtype[np.float32]]) -> Expr:
    """Divide sums by a count for each pixel, or by one for all."""
    factors = (1 / counts).astype("float32")
    if (factors == factors[0, 0]).all():
        return layout.emit_expression(relax.op.multiply(total, relax.const(float(factors[0, 0]), "float32")))
    return layout.emit_expression(relax.op.multiply(total, relax.const(factors[None, None, :, :, None], "float32")))


def _is_worth_blocks(layout: LayoutRewriter, call: relax.Call) -> bool:
    """Tell whether an image is in channel blocks, or fills a register with its channels so that it may well be."""
    value = layout.value(call.args[0])
    is_image = len(value.shape) == 4 and getattr(call.attrs, "layout", "NCHW") == "NCHW"
    is_number = str(call.ty.dtype) == "float32"
    return is_image and is_number and (value.is_blocked or value.shape[1] >= layout.core.lanes)


RULES: dict[str, Rule] = {
    "relax.mean": mean,
    "relax.nn.adaptive_avg_pool2d": adaptive_average_pool,
    "relax.nn.avg_pool2d": average_pool,
    "relax.nn.max_pool2d": maximum_pool,
}
