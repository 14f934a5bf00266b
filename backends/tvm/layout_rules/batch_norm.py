"""Batch normalisation that no convolution took in: a scale and a shift a channel, computed from weights alone."""

from __future__ import annotations

from tvm import relax

from cospipe.backends.tvm.layout import Expr, LayoutRewriter, Rule, Value, shape_of


def batch_norm(layout: LayoutRewriter, call: relax.Call) -> Value | None:
    """Multiply with a scale and add a shift, where TVM would subtract, divide, multiply and add."""
    data, *weights = call.args
    attributes = call.attrs
    shape, rank = layout.value(data).shape, len(layout.value(data).shape)
    if attributes.training or not all(layout.is_weight(weight) for weight in weights) or attributes.axis % rank != 1:
        return None
    scale, shift = _scale_and_shift(layout, [layout.plain(weight) for weight in weights], call)
    value = layout.value(data)
    if value.is_blocked:
        per_channel: tuple[int, ...] = (1, shape[1], 1, 1)
        scale, shift = (layout.blocked(_reshaped(layout, vector, per_channel)) for vector in (scale, shift))
        normal = layout.emit_blocked(_scaled(layout, value.blocked, scale, shift), shape)
    else:
        per_channel = (1, shape[1], *[1] * (rank - 2))
        scale, shift = (_reshaped(layout, vector, per_channel) for vector in (scale, shift))
        normal = layout.emit(_scaled(layout, layout.plain(data), scale, shift))
    return Value((), fields=(normal, *(Value(shape_of(weight), plain=layout.plain(weight)) for weight in weights[2:])))


def _scale_and_shift(layout: LayoutRewriter, weights: list[Expr], call: relax.Call) -> tuple[Expr, Expr]:
    gamma, beta, mean, variance = weights
    epsilon = relax.const(float(call.attrs.epsilon), str(variance.ty.dtype))
    deviation = layout.emit_expression(relax.op.sqrt(layout.emit_expression(relax.op.add(variance, epsilon))))
    scale = gamma if call.attrs.scale else relax.op.ones_like(gamma)
    scale = layout.emit_expression(relax.op.divide(scale, deviation))
    moved = layout.emit_expression(relax.op.multiply(mean, scale))
    start = beta if call.attrs.center else relax.op.zeros_like(beta)
    return scale, layout.emit_expression(relax.op.subtract(start, moved))


def _reshaped(layout: LayoutRewriter, vector: Expr, shape: tuple[int, ...]) -> Expr:
    return layout.emit_expression(relax.op.reshape(vector, shape))


def _scaled(layout: LayoutRewriter, data: Expr, scale: Expr, shift: Expr) -> Expr:
    return relax.op.add(layout.emit_expression(relax.op.multiply(data, scale)), shift)


RULES: dict[str, Rule] = {"relax.nn.batch_norm": batch_norm}
