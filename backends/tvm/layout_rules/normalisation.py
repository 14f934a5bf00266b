"""Softmax and layer normalisation along the last axes."""

from __future__ import annotations

from math import prod
from typing import Any

from tvm import relax

from cospipe.backends.tvm.kernels import layer_norm as layer_norm_kernel
from cospipe.backends.tvm.kernels import softmax as softmax_kernel
from cospipe.backends.tvm.kernels.fused import call_attributes, declare
from cospipe.backends.tvm.kernels.layer_norm import LayerNorm
from cospipe.backends.tvm.kernels.softmax import Softmax
from cospipe.backends.tvm.layout import Expr, LayoutRewriter, Rule, Value, shape_of


def softmax(layout: LayoutRewriter, call: relax.Call) -> Value | None:
    """Rewrite a softmax along the last axis, or the logarithm of one.

    Along another axis the generic loops are as good: they compute neighbouring rows in the lanes of a vector.
    """
    (data,) = call.args
    shape = shape_of(call)
    if str(call.ty.dtype) != "float32" or not shape or int(call.attrs.axis) not in (-1, len(shape) - 1):
        return None
    described = Softmax(shape, call.op.name == "relax.nn.log_softmax")
    return Value(shape, plain=_declared(layout, softmax_kernel.NAME, described, layout.plain(data)))


def layer_norm(layout: LayoutRewriter, call: relax.Call) -> Value | None:
    """Rewrite a layer normalisation; several axes are normalised as one."""
    data, scale, shift = call.args
    shape = shape_of(call)
    axes = sorted(int(axis) % len(shape) for axis in call.attrs.axes)
    first = len(shape) - len(axes)
    is_whole = call.attrs.center and call.attrs.scale and axes == list(range(first, len(shape)))
    if str(call.ty.dtype) != "float32" or not is_whole or scale.same_as(shift):
        return None
    length = prod(shape[first:])
    rows = *shape[:first], length
    inputs = [_reshaped(layout, data, rows), *(_reshaped(layout, weight, (length,)) for weight in (scale, shift))]
    described = LayerNorm(rows, float(call.attrs.epsilon))
    result = _declared(layout, layer_norm_kernel.NAME, described, *inputs)
    if len(axes) == 1:
        return Value(shape, plain=result)
    return layout.emit(relax.op.reshape(result, shape))


def _reshaped(layout: LayoutRewriter, tensor: Expr, shape: tuple[int, ...]) -> Expr:
    plain = layout.plain(tensor)
    return plain if shape_of(plain) == shape else layout.emit_expression(relax.op.reshape(plain, shape))


def _declared(layout: LayoutRewriter, name: str, described: Any, *inputs: Expr) -> Expr:
    return layout.compute(
        lambda *tensors: declare(name, described.shape, described, *tensors),
        *inputs,
        primfunc_name_hint=name,
        primfunc_attrs=call_attributes(),
    )


RULES: dict[str, Rule] = {
    "relax.nn.layer_norm": layer_norm,
    "relax.nn.log_softmax": softmax,
    "relax.nn.softmax": softmax,
}
