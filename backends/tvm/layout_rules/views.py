"""Tensors as another tensor seen in a different order: transposed, reshaped, or a part of it.

A matrix product reads its operands through such a view, so the heads of attention are not copied apart. The operations
that the view goes past fall away when nothing else reads their results.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod

import tvm
from tvm import relax

from cospipe.backends.tvm.layout import Expr, LayoutRewriter, shape_of


@dataclass(frozen=True)
class View:
    """Elements of a tensor in memory.

    Parameters
    ----------
    base : Expr
        The plain tensor they belong to.
    shape : tuple of int
        Of the view.
    offset : int
        Position of the first element in ``base``.
    strides : tuple of int
        Distances between neighbours along each axis, in elements.
    """

    base: Expr
    shape: tuple[int, ...]
    offset: int
    strides: tuple[int, ...]


def view_of(layout: LayoutRewriter, tensor: Expr) -> View:
    """Return a tensor as a view of the one it was cut out of or reordered from."""
    return _followed(layout, layout.definition(tensor)) or contiguous(layout.plain(tensor))


def contiguous(tensor: Expr) -> View:
    """Return a plain tensor as it lies in memory."""
    shape = shape_of(tensor)
    return View(tensor, shape, 0, tuple(prod(shape[axis + 1 :]) for axis in range(len(shape))))


def _followed(layout: LayoutRewriter, definition: Expr) -> View | None:
    """Return the view that an operation makes of its argument; None when it does more than that."""
    if isinstance(definition, relax.TupleGetItem):
        return _field(layout, layout.definition(definition.tuple_value), definition.index)
    if isinstance(definition, relax.Call):
        change = _CHANGES.get(getattr(definition.op, "name", ""))
        return change(view_of(layout, definition.args[0]), definition) if change else None
    return None


def _field(layout: LayoutRewriter, split: Expr, index: int) -> View | None:
    """Return one part of a tensor that was split."""
    if not isinstance(split, relax.Call) or getattr(split.op, "name", "") != "relax.split":
        return None
    view, parts = view_of(layout, split.args[0]), [shape_of_type(part) for part in split.ty.fields]
    axis = int(split.attrs.axis) % len(view.shape)
    skipped = sum(part[axis] for part in parts[:index])
    return View(view.base, parts[index], view.offset + skipped * view.strides[axis], view.strides)


def shape_of_type(kind: relax.TensorType) -> tuple[int, ...]:
    """Return the shape that a type describes."""
    return tuple(int(extent) for extent in kind.shape)


def _permuted(view: View, call: relax.Call) -> View:
    axes = call.attrs.axes
    order = [int(axis) % len(view.shape) for axis in axes] if axes else range(len(view.shape))[::-1]
    return View(view.base, tuple(view.shape[a] for a in order), view.offset, tuple(view.strides[a] for a in order))


def _reshaped(view: View, call: relax.Call) -> View | None:
    return reshaped(view, shape_of(call))


def reshaped(view: View, shape: Sequence[int]) -> View | None:
    """Return a view in another shape; None when its elements have to be copied for that."""
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
    return View(view.base, tuple(shape), view.offset, tuple(strides))


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
    index = call.args[1]
    if not isinstance(index, tvm.ir.GenericConst) or call.attrs.axis is None or shape_of(index):
        return None
    axis, position = int(call.attrs.axis) % len(view.shape), int(index.value.numpy())
    if not -view.shape[axis] <= position < view.shape[axis]:
        return None
    offset = view.offset + position % view.shape[axis] * view.strides[axis]
    return View(view.base, shape_of(call), offset, view.strides[:axis] + view.strides[axis + 1 :])


def _sliced(view: View, call: relax.Call) -> View | None:
    """Follow a range along some axes, from the front to the back."""
    axes, begins, _, *given = ([int(number) for number in numbers.fields] for numbers in call.args[1:])
    steps = given[0] if given else [1] * len(axes)
    strides, offset = list(view.strides), view.offset
    for axis, begin, step in zip(axes, begins, steps, strict=True):
        if not 0 <= begin < view.shape[axis] or step < 1:
            return None
        offset += begin * view.strides[axis]
        strides[axis] *= step
    return View(view.base, shape_of(call), offset, tuple(strides))


_CHANGES: dict[str, Callable[[View, relax.Call], View | None]] = {
    "relax.permute_dims": _permuted,
    "relax.strided_slice": _sliced,
    "relax.take": _taken,
    **dict.fromkeys(("relax.reshape", "relax.expand_dims", "relax.squeeze"), _reshaped),
}
