"""Rules of operations that arrange elements anew, or make tensors of a given shape."""

from __future__ import annotations

from itertools import pairwise
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cospipe.backends.onnx.node import Computation, OnnxNode, Rule


def _constant(node: OnnxNode) -> Computation:
    for name in ("value", "value_float", "value_floats", "value_int", "value_ints"):
        if name in node.attributes:
            value = _constant_value(name, node.attributes[name])
            return lambda: torch.tensor(value)
    raise node.unsupported("a constant that is a string or sparse")


def _constant_value(name: str, value: Any) -> np.ndarray[Any, Any]:
    dtypes = {"value": None, "value_float": np.float32, "value_floats": np.float32}
    return np.asarray(value, dtypes.get(name, np.int64))


def _constant_of_shape(node: OnnxNode) -> Computation:
    shape = tuple(int(size) for size in node.static(0))
    filling = torch.tensor(np.asarray(node.attribute("value", np.zeros(1, np.float32))).reshape(()))
    return lambda *_: torch.full(shape, filling.item(), dtype=filling.dtype)


def _range(node: OnnxNode) -> Computation:
    start, limit, step = (node.static(position).item() for position in range(3))
    if step == 0:
        raise node.unsupported("a step of 0")
    dtype = node.dtype(0)
    return lambda *_: torch.from_numpy(np.arange(start, limit, step)).to(dtype)


def _shape(node: OnnxNode) -> Computation:
    start, end = node.attribute("start", 0), node.attribute("end", None)
    sizes = node.shape(0)[slice(start, end)]
    return lambda *_: torch.tensor(sizes, dtype=torch.int64)


def _size(node: OnnxNode) -> Computation:
    elements = prod(node.shape(0))
    return lambda *_: torch.tensor(elements, dtype=torch.int64)


def _reshape(node: OnnxNode) -> Computation:
    before, sizes = node.shape(0), [int(size) for size in node.static(1)]
    if not node.attribute("allowzero", 0):
        if any(size == 0 and axis >= len(before) for axis, size in enumerate(sizes)):
            raise node.unsupported(f"the shape {sizes} for an input with {len(before)} dimension(s)")
        sizes = [size or before[axis] for axis, size in enumerate(sizes)]
    return lambda data, *_: data.reshape(sizes)


def _flatten(node: OnnxNode) -> Computation:
    shape = node.shape(0)
    axis = int(node.attribute("axis", 1))
    axis += len(shape) if axis < 0 else 0
    rows, columns = prod(shape[:axis]), prod(shape[axis:])
    return lambda data: data.reshape(rows, columns)


def _squeeze(node: OnnxNode) -> Computation:
    shape = node.shape(0)
    given = node.integers("axes", 1)
    axes = {axis for axis, size in enumerate(shape) if size == 1} if given is None else _axes(node, given, len(shape))
    wrong = sorted(axis for axis in axes if shape[axis] != 1)
    if wrong:
        raise node.unsupported(f"removing axis {wrong[0]}, whose size is {shape[wrong[0]]} and not 1,")
    kept = [size for axis, size in enumerate(shape) if axis not in axes]
    return lambda data, *_: data.reshape(kept)


def _unsqueeze(node: OnnxNode) -> Computation:
    given = node.integers("axes", 1, ()) or ()
    rank = node.rank(0) + len(given)
    axes, sizes = _axes(node, given, rank), iter(node.shape(0))
    shape = [1 if axis in axes else next(sizes) for axis in range(rank)]
    return lambda data, *_: data.reshape(shape)


def _axes(node: OnnxNode, axes: tuple[int, ...], rank: int) -> set[int]:
    positive = {node.positive_axis(axis, rank) for axis in axes}
    if len(positive) != len(axes):
        raise node.unsupported(f"the axes {list(axes)}, one of them twice,")
    return positive


def _transpose(node: OnnxNode) -> Computation:
    order = tuple(node.attribute("perm", range(node.rank(0))[::-1]))
    return lambda data: data.permute(order)


def _expand(node: OnnxNode) -> Computation:
    shape = np.broadcast_shapes(node.shape(0), tuple(int(size) for size in node.static(1)))
    return lambda data, *_: data.expand(shape)


def _tile(node: OnnxNode) -> Computation:
    repeats = [int(count) for count in node.static(1)]
    return lambda data, *_: data.repeat(repeats)


def _concat(node: OnnxNode) -> Computation:
    axis = node.axis(0)
    return lambda *tensors: torch.cat(tensors, dim=axis)


def _split(node: OnnxNode) -> Computation:
    axis = node.axis(0)
    sizes = node.integers("split", 1) or _equal_parts(node, node.shape(0)[axis])
    return lambda data, *_: torch.split(data, list(sizes), dim=axis)


def _equal_parts(node: OnnxNode, size: int) -> list[int]:
    count = int(node.attribute("num_outputs", len(node.outputs)))
    longest = -(-size // count)
    bounds = [min(longest * part, size) for part in range(count + 1)]
    return [end - start for start, end in pairwise(bounds)]


def _slice(node: OnnxNode) -> Computation:
    starts = node.integers("starts", 1) or ()
    ends = node.integers("ends", 2) or ()
    axes = node.integers("axes", 3, range(len(starts))) or ()
    steps = node.integers("steps", 4, [1] * len(starts)) or ()
    cuts = [
        (axis, slice(start, end, step).indices(node.shape(0)[axis]))
        for axis, start, end, step in zip(
            (node.positive_axis(axis, node.rank(0)) for axis in axes),
            starts,
            _slice_ends(ends, steps),
            steps,
            strict=True,
        )
    ]

    def compute(data: Tensor, *_: Tensor) -> Tensor:
        for axis, cut in cuts:
            data = _sliced(data, axis, cut)
        return data

    return compute


def _slice_ends(ends: tuple[int, ...], steps: tuple[int, ...]) -> list[int | None]:
    """Return the ends in Python's form: backwards, all very negative ones mean the first element, too."""
    lowest = -(2**31) + 1
    return [None if step < 0 and end <= lowest else end for end, step in zip(ends, steps, strict=True)]


def _sliced(data: Tensor, axis: int, cut: tuple[int, int, int]) -> Tensor:
    start, end, step = cut
    if step == 1:
        return data.narrow(axis, start, max(end - start, 0))
    if step > 1:
        cuts = [slice(None)] * axis + [slice(start, max(end, start), step)]
        return data[tuple(cuts)]
    indices = torch.tensor(list(range(start, end, step)), dtype=torch.int64)
    return data.index_select(axis, indices)


def _pad(node: OnnxNode) -> Computation:
    rank = node.rank(0)
    axes = [node.positive_axis(axis, rank) for axis in node.integers("", 3, range(rank)) or ()]
    amounts = node.integers("pads", 1) or ()
    before_and_after = {axis: (amounts[i], amounts[i + len(axes)]) for i, axis in enumerate(axes)}
    mode = node.attribute("mode", "constant")
    if mode == "constant":
        return _pad_by_constant(node, before_and_after)
    if mode in _NUMPY_PAD_MODES:
        return _pad_by_own_elements(node, before_and_after, _NUMPY_PAD_MODES[mode])
    raise node.unsupported(f"mode {mode!r}")


_NUMPY_PAD_MODES = {"edge": "edge", "reflect": "reflect", "wrap": "wrap"}


def _pad_by_constant(node: OnnxNode, pads: dict[int, tuple[int, int]]) -> Computation:
    value = node.static(2).item() if node.has(2) else node.attribute("value", 0.0)
    if node.dtype(0) is torch.bool:
        value = bool(value)
    # torch counts from the last axis
    flat = [amount for axis in reversed(range(node.rank(0))) for amount in pads.get(axis, (0, 0))]
    return lambda data, *_: torch.nn.functional.pad(data, flat, value=value)


def _pad_by_own_elements(node: OnnxNode, pads: dict[int, tuple[int, int]], mode: Any) -> Computation:
    sources = {axis: _padded_indices(node.shape(0)[axis], amounts, mode) for axis, amounts in pads.items()}

    def compute(data: Tensor, *_: Tensor) -> Tensor:
        for axis, indices in sources.items():
            if any(pads[axis]):
                data = data.index_select(axis, torch.tensor(indices))
        return data

    return compute


def _padded_indices(size: int, amounts: tuple[int, int], mode: Any) -> list[int]:
    before, after = amounts
    padded = np.pad(np.arange(size), (max(before, 0), max(after, 0)), mode=mode)
    indices: list[int] = padded[max(-before, 0) : len(padded) - max(-after, 0)].tolist()
    return indices


RULES: dict[str, Rule] = {
    "Concat": _concat,
    "Constant": _constant,
    "ConstantOfShape": _constant_of_shape,
    "Expand": _expand,
    "Flatten": _flatten,
    "Pad": _pad,
    "Range": _range,
    "Reshape": _reshape,
    "Shape": _shape,
    "Size": _size,
    "Slice": _slice,
    "Split": _split,
    "Squeeze": _squeeze,
    "Tile": _tile,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
}
