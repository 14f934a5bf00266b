"""Tensors that are another tensor seen in a different order: transposed, reshaped, a part of it.

A matrix product reads its operands through such a view, so the heads of attention are not copied apart. The plain
operation is emitted too; it falls away when nothing else reads it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod

import tvm
from tvm import relax

from cospipe.backends.tvm.layout import Expr, LayoutRewriter, Rule, Value, View, shape_of

Change = Callable[[View, relax.Call], "View | None"]
"""Makes the view after an operation from the view before it; None when strides cannot express it."""


def view_of(layout: LayoutRewriter, expression: Expr) -> View:
    """Return how an argument lies in memory."""
    return layout.value(expression).view or contiguous(layout.plain(expression))


def contiguous(tensor: Expr) -> View:
    """Return a tensor as it lies in memory."""
    shape = shape_of(tensor)
    return View(tensor, shape, 0, tuple(prod(shape[axis + 1 :]) for axis in range(len(shape))))


def _changed(change: Change) -> Rule:
    """Return the rule that emits an operation as it is and notes what its result is a view of."""

    def rule(layout: LayoutRewriter, call: relax.Call) -> Value | None:
        value = layout.value(call.args[0])
        if value.plain is None or not value.shape:
            return None
        result = layout.emit(layout.plain_expression(call))
        result.view = change(value.view or contiguous(value.plain), call)
        return result

    return rule


def _permuted(view: View, call: relax.Call) -> View:
    axes = call.attrs.axes
    order = [int(axis) % len(view.shape) for axis in axes] if axes else range(len(view.shape))[::-1]
    return View(view.base, tuple(view.shape[a] for a in order), view.offset, tuple(view.strides[a] for a in order))


def _reshaped(view: View, call: relax.Call) -> View | None:
    shape = shape_of(call)
    strides = strides_after_reshape(view, shape)
    return None if strides is None else View(view.base, shape, view.offset, strides)


def strides_after_reshape(view: View, shape: Sequence[int]) -> tuple[int, ...] | None:
    """Return the strides of a view in another shape; None when it has to be copied for that."""
    runs = _runs(view)
    strides: list[int] = []
    extent, stride = runs.pop()
    for wanted in reversed(shape):
        if extent == 1 and wanted > 1:
            extent, stride = runs.pop()
        if extent % wanted:
            return None
        strides.insert(0, stride)
        extent, stride = extent // wanted, stride * wanted
    return tuple(strides)


def _runs(view: View) -> list[tuple[int, int]]:
    """Return extents and strides of the fewest axes that say the same."""
    runs: list[tuple[int, int]] = [(1, 1)]
    for extent, stride in zip(view.shape, view.strides, strict=True):
        if runs[-1][1] == stride * extent:
            runs[-1] = (runs[-1][0] * extent, stride)
        elif extent > 1:
            runs.append((extent, stride))
    return runs


def _taken(view: View, call: relax.Call) -> View | None:
    """Follow the choice of one constant index along an axis."""
    index, axis = call.args[1], call.attrs.axis
    if not isinstance(index, tvm.ir.GenericConst) or axis is None or shape_of(index):
        return None
    axis, extent = int(axis) % len(view.shape), view.shape[int(axis)]
    position = int(index.value.numpy())
    if not -extent <= position < extent:
        return None
    offset = view.offset + position % extent * view.strides[axis]
    return View(view.base, _without(view.shape, axis), offset, _without(view.strides, axis))


def _without(numbers: tuple[int, ...], axis: int) -> tuple[int, ...]:
    return numbers[:axis] + numbers[axis + 1 :]


RULES: dict[str, Rule] = {
    "relax.permute_dims": _changed(_permuted),
    "relax.take": _changed(_taken),
    **dict.fromkeys(("relax.reshape", "relax.expand_dims", "relax.squeeze"), _changed(_reshaped)),
}
