"""Convolutions and poolings of sequences, (N, C, W), on channel blocks: as those of images with one row."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm import relax

from cospipe.backends.tvm.layout import Expr, LayoutRewriter, Rule, Value, image_shape, shape_of
from cospipe.backends.tvm.layout_rules.convolution import convolution
from cospipe.backends.tvm.layout_rules.transposed_convolution import transposed_convolution


def convolution_1d(layout: LayoutRewriter, call: relax.Call) -> Value | None:
    """Rewrite a convolution of a sequence."""
    if (call.attrs.data_layout, call.attrs.kernel_layout) != ("NCW", "OIW"):
        return None
    return _as_image(layout, call, relax.op.nn.conv2d, convolution)


def transposed_convolution_1d(layout: LayoutRewriter, call: relax.Call) -> Value | None:
    """Rewrite a transposed convolution of a sequence."""
    if (call.attrs.data_layout, call.attrs.kernel_layout) != ("NCW", "IOW"):
        return None
    output_padding = (0, int(call.attrs.output_padding[0]))
    return _as_image(layout, call, relax.op.nn.conv2d_transpose, transposed_convolution, output_padding=output_padding)


def _as_image(
    layout: LayoutRewriter, call: relax.Call, operation: Callable[..., Expr], rule: Rule, **options: Any
) -> Value | None:
    attributes = call.attrs
    image_call = operation(
        *(layout.as_image(argument) for argument in call.args),
        strides=(1, int(attributes.strides[0])),
        padding=(0, int(attributes.padding[0]), 0, int(attributes.padding[1])),
        dilation=(1, int(attributes.dilation[0])),
        groups=int(attributes.groups),
        **options,
    )
    image = rule(layout, relax.BlockBuilder().normalize(image_call))
    return image and Value(shape_of(call), blocked=image.blocked)


def one_row(layout: LayoutRewriter, call: relax.Call) -> Value | None:
    """See a sequence as an image of one row, or the other way round; channel blocks are the same for both."""
    value, result = layout.value(call.args[0]), shape_of(call)
    if not value.is_blocked or {len(value.shape), len(result)} != {3, 4}:
        return None
    is_same = image_shape(value.shape) == image_shape(result)
    return Value(result, blocked=value.blocked) if is_same else None


RULES: dict[str, Rule] = {
    "relax.expand_dims": one_row,
    "relax.nn.conv1d": convolution_1d,
    "relax.nn.conv1d_transpose": transposed_convolution_1d,
    "relax.squeeze": one_row,
}
