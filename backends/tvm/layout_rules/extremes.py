"""Where the largest or smallest number along an axis is.

TVM keeps number and position together while it goes along the axis, which does not vectorise. Here the number is found
first and then the first position that has it: two reductions that do.
"""

from __future__ import annotations

from tvm import relax, te, tirx, topi

from cospipe.backends.tvm.layout import Expr, LayoutRewriter, Rule, Value, shape_of

_EXACT_INTEGERS = 2**24
"""Up to here, FP32 tells all integers apart."""


def position(layout: LayoutRewriter, call: relax.Call) -> Value | None:
    """Rewrite an argmax or argmin along one axis."""
    (data,) = call.args
    if call.attrs.axis is None or not _can_search(data):
        return None
    _, found = _search(layout, data, int(call.attrs.axis), call.op.name == "relax.argmax", str(call.ty.dtype))
    return layout.emit(relax.op.reshape(found, shape_of(call)))


def first_of_sorted(layout: LayoutRewriter, call: relax.Call) -> Value | None:
    """Rewrite the first of the sorted numbers, which the importer makes of a maximum and its position."""
    (data,), attributes = call.args, call.attrs
    if attributes.k != 1 or attributes.ret_type != "both" or not _can_search(data):
        return None
    extreme, found = _search(layout, data, int(attributes.axis), bool(attributes.largest), str(attributes.dtype))
    shape = shape_of(extreme)
    return Value((), fields=(Value(shape, plain=extreme), layout.emit(relax.op.reshape(found, shape))))


def _can_search(data: Expr) -> bool:
    shape = shape_of(data)
    return bool(shape) and str(data.ty.dtype) == "float32" and max(shape) < _EXACT_INTEGERS


def _search(layout: LayoutRewriter, data: Expr, axis: int, finds_largest: bool, dtype: str) -> tuple[Expr, Expr]:
    """Return the largest or smallest numbers, and their positions without the axis."""
    plain, along = layout.plain(data), axis % len(shape_of(data))
    extreme = layout.emit_expression((relax.op.max if finds_largest else relax.op.min)(plain, along, keepdims=True))
    found = layout.compute(
        lambda numbers, sought: _first_position(numbers, sought, along, dtype),
        plain,
        extreme,
        primfunc_name_hint="first_position",
    )
    return extreme, found


def _first_position(numbers: te.Tensor, sought: te.Tensor, along: int, dtype: str) -> te.Tensor:
    extent = int(numbers.shape[along])
    step = te.reduce_axis((0, extent), "step")
    rest = [*numbers.shape[:along], *numbers.shape[along + 1 :]]

    def first(*index: Expr) -> Expr:
        outer, inner = index[:along], index[along:]
        is_here = numbers(*outer, step, *inner).equal(sought(*outer, 0, *inner))
        # behind the last position there is none: not even where no number equals itself
        return te.min(tirx.Select(is_here, step.var.astype("float32"), tirx.const(extent - 1, "float32")), axis=step)

    return topi.cast(te.compute(rest, first, name="first_position"), dtype)


RULES: dict[str, Rule] = {
    "relax.argmax": position,
    "relax.argmin": position,
    "relax.topk": first_of_sorted,
}
