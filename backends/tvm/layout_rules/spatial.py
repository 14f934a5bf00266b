"""Padding and resizing of images on channel blocks."""

from __future__ import annotations

from tvm import relax, topi

from cospipe.backends.tvm.layout import LayoutRewriter, Rule, Value, shape_of


def pad(layout: LayoutRewriter, call: relax.Call) -> Value | None:
    """Pad the rows and columns of an image."""
    value, widths = layout.value(call.args[0]), [int(width) for width in call.attrs.pad_width]
    if not value.is_blocked or len(value.shape) != 4 or any(widths[:4]):
        return None
    padded = relax.op.nn.pad(value.blocked, [*widths, 0, 0], call.attrs.pad_mode, call.attrs.pad_value)
    return layout.emit_blocked(padded, shape_of(call))


def resize(layout: LayoutRewriter, call: relax.Call) -> Value | None:
    """Resize an image, by the nearest pixel or by interpolation."""
    value, attributes = layout.value(call.args[0]), call.attrs
    if not value.is_blocked or attributes.layout != "NCHW":
        return None
    block = shape_of(value.blocked)[-1]
    resized = layout.compute(
        topi.image.resize2d,
        value.blocked,
        roi=list(attributes.roi),
        size=list(shape_of(call)[2:]),
        layout=f"NCHW{block}c",
        method=attributes.method,
        coordinate_transformation_mode=attributes.coordinate_transformation_mode,
        rounding_method=attributes.rounding_method,
        bicubic_alpha=attributes.cubic_alpha,
        bicubic_exclude=attributes.cubic_exclude,
        extrapolation_value=attributes.extrapolation_value,
        primfunc_name_hint="resize2d",
    )
    return Value(shape_of(call), blocked=resized)


RULES: dict[str, Rule] = {
    "relax.image.resize2d": resize,
    "relax.nn.pad": pad,
}
