"""Transposed convolutions on channel blocks."""

from __future__ import annotations

from math import ceil

from tvm import relax

from cospipe.backends.tvm.kernels import transposed_convolution as transposed
from cospipe.backends.tvm.kernels.fused import call_attributes, declare
from cospipe.backends.tvm.kernels.transposed_convolution import Axis, TransposedConvolution
from cospipe.backends.tvm.layout import LayoutRewriter, Rule, Value, shape_of
from cospipe.backends.tvm.layout_rules.convolution import merged_groups


def transposed_convolution(layout: LayoutRewriter, call: relax.Call) -> Value | None:
    """Rewrite a 2-D transposed convolution."""
    data, weight = call.args
    attributes = call.attrs
    types = {str(tensor.ty.dtype) for tensor in (data, weight, call)}
    if types != {"float32"} or attributes.data_layout != "NCHW" or attributes.kernel_layout != "IOHW":
        return None
    described, merged = _described(layout, call)
    packed = layout.compute(
        lambda w: transposed.pack_weight(w, described, int(call.attrs.groups), merged),
        layout.plain(weight),
        primfunc_name_hint="pack_transposed_weight",
    )
    output = layout.compute(
        lambda d, w: declare(transposed.NAME, described.output_shape, described, d, w),
        layout.blocked(data),
        packed,
        primfunc_name_hint="transposed_convolution",
        primfunc_attrs=call_attributes(),
    )
    return Value(shape_of(call), blocked=output)


def _described(layout: LayoutRewriter, call: relax.Call) -> tuple[TransposedConvolution, int]:
    """Return the convolution, and how many of its groups are computed as one."""
    image, kernel = layout.value(call.args[0]).shape, shape_of(call.args[1])
    groups, result = int(call.attrs.groups), shape_of(call)
    input_block, output_block = layout.block(image[1]), layout.block(result[1])
    merged = merged_groups(groups, kernel[0] // groups, kernel[1], input_block, output_block)
    inputs = ceil(kernel[0] // groups * merged / input_block) * input_block
    outputs = ceil(kernel[1] * merged / output_block) * output_block
    rows, columns = _axes(call, image)
    tile = transposed.choose_tile(columns, outputs // output_block, layout.core)
    described = TransposedConvolution(
        image[0], ceil(groups / merged), inputs, outputs, input_block, output_block, rows, columns, *tile
    )
    return described, merged


def _axes(call: relax.Call, image: tuple[int, ...]) -> tuple[Axis, Axis]:
    kernel, result, attributes = shape_of(call.args[1]), shape_of(call), call.attrs
    rows, columns = (
        Axis(
            input=image[2 + axis],
            output=result[2 + axis],
            kernel=kernel[2 + axis],
            stride=int(attributes.strides[axis]),
            padding=int(attributes.padding[axis]),
            dilation=int(attributes.dilation[axis]),
        )
        for axis in range(2)
    )
    return rows, columns


RULES: dict[str, Rule] = {"relax.nn.conv2d_transpose": transposed_convolution}
