"""Convolutions on channel blocks: which kernel computes one, and how its weight is packed."""

from __future__ import annotations

from math import ceil

from tvm import relax

from cospipe.backends.tvm.kernels import convolution as direct
from cospipe.backends.tvm.kernels import depthwise, winograd
from cospipe.backends.tvm.kernels.convolution import Convolution
from cospipe.backends.tvm.kernels.depthwise import Depthwise
from cospipe.backends.tvm.kernels.fused import call_attributes, declare
from cospipe.backends.tvm.kernels.window import Window
from cospipe.backends.tvm.kernels.winograd import Winograd
from cospipe.backends.tvm.layout import Expr, LayoutRewriter, Rule, Value, shape_of
from cospipe.backends.tvm.tiling import ConvolutionShape, direct_cycles, register_tile, winograd_cycles, winograd_panel

_WORTH_IT = 1.1
"""A way of computing that takes up to this much longer than the fastest is taken if it needs less memory."""


def convolution(layout: LayoutRewriter, call: relax.Call) -> Value | None:
    """Rewrite a 2-D convolution."""
    data, weight = call.args
    attributes = call.attrs
    types = {str(tensor.ty.dtype) for tensor in (data, weight, call)}
    if types != {"float32"} or attributes.data_layout != "NCHW" or attributes.kernel_layout != "OIHW":
        return None
    if int(attributes.groups) == shape_of(weight)[0] == layout.value(data).shape[1] > 1:
        return _depthwise(layout, call, data, weight)
    if size := _winograd_size(layout, call):
        return _winograd(layout, call, size)
    return _direct(layout, call, data, weight)


def _winograd_size(layout: LayoutRewriter, call: relax.Call) -> int | None:
    """Return the tile with which Winograd's method beats the direct one, or None."""
    kernel, shape = shape_of(call.args[1]), _shape(layout, call)
    is_applicable = kernel[2:] == (3, 3) and call.attrs.groups == 1 and layout.allows_winograd
    steps = {int(step) for step in (*call.attrs.strides, *call.attrs.dilation)}
    if not is_applicable or steps != {1} or kernel[1] < layout.core.lanes:
        return None
    cycles: dict[int | None, float] = {None: direct_cycles(shape, layout.core)}
    for size in winograd.SIZES:
        if size <= min(shape.output_rows, shape.output_columns):
            cycles[size] = winograd_cycles(shape, size, layout.core)
    # in the order of their weights, and of their rounding errors: more must be worth it
    fewest = min(cycles.values())
    return next(size for size in cycles if cycles[size] <= _WORTH_IT * fewest)


def _shape(layout: LayoutRewriter, call: relax.Call) -> ConvolutionShape:
    kernel, result = shape_of(call.args[1]), shape_of(call)
    block = layout.block(result[1])
    vectors = ceil(result[1] / block)
    return ConvolutionShape(kernel[1], vectors, result[2], result[3], kernel[2] * kernel[3], block)


def _winograd(layout: LayoutRewriter, call: relax.Call, size: int) -> Value:
    image, result, shape = layout.value(call.args[0]).shape, shape_of(call), _shape(layout, call)
    rows, columns = _windows(call, image, (3, 3))
    panel = winograd_panel(shape, size, layout.core)
    tile = register_tile(panel, shape.output_vectors, layout.core)
    block = layout.block(image[1])
    described = Winograd(
        batch=image[0],
        input_blocks=ceil(image[1] / block),
        output_blocks=shape.output_vectors,
        input_block=block,
        output_block=shape.lanes,
        input_rows=rows.input,
        input_columns=columns.input,
        output_rows=rows.output,
        output_columns=columns.output,
        top=rows.padding,
        left=columns.padding,
        size=size,
        panel=panel,
        tile_pixels=tile.pixels,
        tile_vectors=tile.vectors,
    )
    packed = layout.compute(
        lambda weight: winograd.pack_weight(weight, described),
        layout.plain(call.args[1]),
        primfunc_name_hint="transform_weight",
    )
    output = layout.compute(
        lambda data, weight: declare(winograd.NAME, described.output_shape, described, data, weight),
        layout.blocked(call.args[0]),
        packed,
        primfunc_name_hint="winograd",
        primfunc_attrs=call_attributes(),
    )
    return Value(result, blocked=output)


def _windows(call: relax.Call, image: tuple[int, ...], kernel: tuple[int, ...]) -> tuple[Window, Window]:
    result = shape_of(call)
    top, left = (int(p) for p in call.attrs.padding[:2])
    strides, dilation = [int(s) for s in call.attrs.strides], [int(d) for d in call.attrs.dilation]
    rows = Window(image[2], result[2], kernel[0], strides[0], top, dilation[0])
    return rows, Window(image[3], result[3], kernel[1], strides[1], left, dilation[1])


def _depthwise(layout: LayoutRewriter, call: relax.Call, data: Expr, weight: Expr) -> Value:
    image, kernel, result = layout.value(data).shape, shape_of(weight), shape_of(call)
    rows, columns = _windows(call, image, kernel[2:])
    described = Depthwise.choose(image[0], image[1], layout.block(image[1]), rows, columns, layout.core)
    packed = layout.compute(
        lambda w: depthwise.pack_weight(w, described),
        layout.plain(weight),
        primfunc_name_hint="pack_depthwise_weight",
    )
    output = layout.compute(
        lambda d, w: declare(depthwise.NAME, described.output_shape, described, d, w),
        layout.blocked(data),
        packed,
        primfunc_name_hint="depthwise",
        primfunc_attrs=call_attributes(),
    )
    return Value(result, blocked=output)


def _direct(layout: LayoutRewriter, call: relax.Call, data: Expr, weight: Expr) -> Value:
    image, kernel, result = layout.value(data).shape, shape_of(weight), shape_of(call)
    groups, lanes = int(call.attrs.groups), layout.core.lanes
    is_plain = image[1] < lanes and groups == 1 and not layout.value(data).is_blocked
    input_block, output_block = 1 if is_plain else layout.block(image[1]), layout.block(result[1])
    merged = merged_groups(groups, kernel[1], kernel[0] // groups, input_block, output_block)
    inputs = ceil(kernel[1] * merged / input_block) * input_block
    outputs = ceil(kernel[0] // groups * merged / output_block) * output_block
    rows, columns = _windows(call, image, kernel[2:])
    tile = direct.choose_tile(columns.output, outputs // output_block, layout.core)
    described = Convolution(
        image[0], ceil(groups / merged), inputs, outputs, input_block, output_block, rows, columns, *tile
    )
    packed = layout.compute(
        lambda w: direct.pack_weight(w, described, groups, merged),
        layout.plain(weight),
        primfunc_name_hint="pack_convolution_weight",
    )
    source = layout.plain(data) if is_plain else layout.blocked(data)
    output = layout.compute(
        lambda d, w: declare(direct.NAME, described.output_shape, described, d, w),
        source,
        packed,
        primfunc_name_hint="convolution",
        primfunc_attrs=call_attributes(),
    )
    return Value(result, blocked=output)


def merged_groups(groups: int, inputs: int, outputs: int, input_block: int, output_block: int) -> int:
    """Return how many groups must be computed as one so that each fills whole channel blocks.

    The last one may hold fewer groups, and zeros, if they end in the last channel block: 13 groups of 8 channels are 7
    pairs on blocks of 16.
    """

    def fills_blocks(merged: int, channels: int, block: int) -> bool:
        ends_in_last_block = ceil(groups / merged) * merged * channels == ceil(groups * channels / block) * block
        return merged * channels % block == 0 and ends_in_last_block

    for merged in range(1, groups):
        if fills_blocks(merged, inputs, input_block) and fills_blocks(merged, outputs, output_block):
            return merged
    return groups


RULES: dict[str, Rule] = {"relax.nn.conv2d": convolution}
