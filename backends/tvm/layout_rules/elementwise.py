"""Elementwise operations on channel blocks."""

from __future__ import annotations

from math import prod

from tvm import relax, topi

from cospipe.backends.tvm.kernels.fused import INJECTIVE
from cospipe.backends.tvm.layout import Expr, LayoutRewriter, Rule, Value, image_shape, shape_of

_UNARY = ("relu", "silu", "gelu", "gelu_tanh", "leakyrelu", "selu", "prelu")
_FINITE_AT_ZERO = tuple(f"relax.nn.{name}" for name in _UNARY[:-1]) + tuple(
    f"relax.{name}"
    for name in ("clip", "sigmoid", "tanh", "negative", "abs", "floor", "ceil", "round", "erf", "sign", "square")
)
"""A channel that only fills a block up holds zero, and these make no infinity of it."""
_ANY_UNARY = ("relax.exp", "relax.log", "relax.sqrt", "relax.rsqrt")
_BINARY = tuple(f"relax.{name}" for name in ("add", "subtract", "multiply", "maximum", "minimum"))
_ANY_BINARY = ("relax.divide", "relax.power")


def unary(layout: LayoutRewriter, call: relax.Call) -> Value | None:
    """Apply an elementwise operation to channel blocks."""
    value = layout.value(call.args[0])
    if not value.is_blocked or not _keeps_finite(layout, call, value.shape[1]):
        return None
    arguments = [value.blocked, *call.args[1:]]
    return layout.emit_blocked(relax.Call(call.op, arguments, call.attrs, call.ty_args), shape_of(call))


def _keeps_finite(layout: LayoutRewriter, call: relax.Call, channels: int) -> bool:
    return call.op.name in (*_FINITE_AT_ZERO, *_BINARY) or channels % layout.block(channels) == 0


def binary(layout: LayoutRewriter, call: relax.Call) -> Value | None:
    """Combine two images, or an image with a number or a vector of its channels."""
    values, shape = [layout.value(argument) for argument in call.args], shape_of(call)
    if not any(value.is_blocked for value in values) or len(shape) not in (3, 4):
        return _plain_binary(layout, call)
    if any(value.is_blocked and value.shape[1] != shape[1] for value in values):
        return None
    if not (_keeps_finite(layout, call, shape[1]) or _is_division_by_number(call, values)):
        return None
    operands = [_operand(layout, argument, shape) for argument in call.args]
    computed = [layout.value(argument) for argument in call.args if not layout.is_weight(argument)]
    if any(value.is_blocked and value.shape != shape for value in computed):
        return Value(shape, blocked=_spread(layout, call, operands))
    return layout.emit_blocked(relax.Call(call.op, operands, call.attrs, call.ty_args), shape)


def _plain_binary(layout: LayoutRewriter, call: relax.Call) -> Value | None:
    shapes = [shape_of(argument) for argument in call.args if not layout.is_weight(argument)]
    if all(prod(shape) in (1, prod(shape_of(call))) for shape in shapes):
        return None
    return Value(shape_of(call), plain=_spread(layout, call, [layout.plain(argument) for argument in call.args]))


def _spread(layout: LayoutRewriter, call: relax.Call, operands: list[Expr]) -> Expr:
    """Combine a tensor with a smaller computed one in a kernel of its own, never behind the kernel that computes it.

    Fused there, the smaller one would be computed anew for every element of the larger: the gate of a
    squeeze-and-excite block, for instance.
    """
    combine = getattr(topi, call.op.name.removeprefix("relax."))
    return layout.compute(combine, *operands, primfunc_name_hint="spread", primfunc_attrs={"op_pattern": INJECTIVE})


def _is_division_by_number(call: relax.Call, values: list[Value]) -> bool:
    return call.op.name == "relax.divide" and not any(values[1].shape)


def _operand(layout: LayoutRewriter, argument: Expr, result: tuple[int, ...]) -> Expr:
    value = layout.value(argument)
    if value.is_blocked or value.shape.count(1) == len(value.shape):
        return value.blocked if value.is_blocked else _as_number(layout, value)
    shape = image_shape((1,) * (len(result) - len(value.shape)) + value.shape)
    plain = value.plain if value.shape == shape else layout.emit_expression(relax.op.reshape(value.plain, shape))
    if shape[1] == 1 and result[1] != 1:
        return layout.emit_expression(relax.op.reshape(plain, (*shape, 1)))
    return layout.blocked(argument) if len(value.shape) == len(result) else layout.blocked(plain)


def _as_number(layout: LayoutRewriter, value: Value) -> Expr:
    return layout.emit_expression(relax.op.reshape(value.plain, ())) if value.shape else value.plain


RULES: dict[str, Rule] = {
    **dict.fromkeys((*_FINITE_AT_ZERO, *_ANY_UNARY), unary),
    **dict.fromkeys((*_BINARY, *_ANY_BINARY), binary),
}
