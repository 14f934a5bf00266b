"""Rules of operations that pick or replace elements by their indices."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from cospipe.backends.onnx.node import Computation, OnnxNode, Rule


def _gather(node: OnnxNode) -> Computation:
    axis, shape = node.axis(0), node.shape(0)
    if node.is_static(1):
        return _gather_known(node, axis)
    is_table = axis == 0 and len(shape) == 2 and node.dtype(0).is_floating_point

    def compute(data: Tensor, indices: Tensor) -> Tensor:
        indices = _positive(indices, shape[axis])
        if is_table:
            return functional.embedding(indices, data)
        picked = data.index_select(axis, indices.reshape(-1))
        return picked.reshape(*shape[:axis], *node.shape(1), *shape[axis + 1 :])

    return compute


def _gather_known(node: OnnxNode, axis: int) -> Computation:
    shape, indices = node.shape(0), np.asarray(node.static(1), np.int64)
    if np.any((indices < -shape[axis]) | (indices >= shape[axis])):
        raise node.unsupported(f"an index beyond the {shape[axis]} elements of axis {axis}")
    numbers = np.where(indices < 0, indices + shape[axis], indices)
    if numbers.ndim == 0:
        return lambda data, *_: data.select(axis, int(numbers))
    result = (*shape[:axis], *numbers.shape, *shape[axis + 1 :])
    flat = numbers.reshape(-1).tolist()
    if flat and flat == list(range(flat[0], flat[0] + len(flat))):
        return lambda data, *_: data.narrow(axis, flat[0], len(flat)).reshape(result)
    return lambda data, *_: data.index_select(axis, torch.tensor(flat, dtype=torch.int64)).reshape(result)


def _positive(indices: Tensor, size: int) -> Tensor:
    """Return indices that count from the first element; negative ones count from the last."""
    if indices.dtype is torch.uint8:
        return indices.to(torch.int64)
    return torch.where(indices < 0, indices + size, indices).to(torch.int64)


def _gather_elements(node: OnnxNode) -> Computation:
    axis = node.axis(0)
    size = node.shape(0)[axis]
    return lambda data, indices: torch.gather(data, axis, _positive(indices, size))


def _gather_nd(node: OnnxNode) -> Computation:
    batch_rank = int(node.attribute("batch_dims", 0))
    shape, indices_shape = node.shape(0), node.shape(1)
    depth = batch_rank + indices_shape[-1]
    result = (*indices_shape[:-1], *shape[depth:])

    def compute(data: Tensor, indices: Tensor) -> Tensor:
        rows = data.reshape(prod(shape[:depth]), *shape[depth:])
        places = _linear(indices, shape[batch_rank:depth])
        places = places + _batch_offsets(shape[:batch_rank], places.dim(), prod(shape[batch_rank:depth]))
        return rows.index_select(0, places.reshape(-1)).reshape(result)

    return compute


def _linear(indices: Tensor, sizes: Sequence[int]) -> Tensor:
    """Return the number of the element that the last axis of ``indices`` describes, in a tensor of these sizes."""
    place = torch.zeros(indices.shape[:-1], dtype=torch.int64)
    for axis, size in enumerate(sizes):
        place = place * size + _positive(indices.select(-1, axis), size)
    return place


def _batch_offsets(batch_sizes: Sequence[int], rank: int, elements: int) -> Tensor:
    offsets = torch.arange(prod(batch_sizes), dtype=torch.int64) * elements
    return offsets.reshape(*batch_sizes, *[1] * (rank - len(batch_sizes)))


_REDUCTIONS = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}


def _scatter_elements(node: OnnxNode) -> Computation:
    axis, reduction = node.axis(0), _reduction(node)
    size = node.shape(0)[axis]

    def compute(data: Tensor, indices: Tensor, updates: Tensor) -> Tensor:
        places = _positive(indices, size)
        if reduction is None:
            return torch.scatter(data, axis, places, updates)
        return torch.scatter_reduce(data, axis, places, updates, reduction)

    return compute


def _reduction(node: OnnxNode) -> str | None:
    name = node.attribute("reduction", "none")
    if name != "none" and name not in _REDUCTIONS:
        raise node.unsupported(f"reduction {name!r}")
    return _REDUCTIONS.get(name)


def _scatter_nd(node: OnnxNode) -> Computation:
    shape, reduction = node.shape(0), _reduction(node)
    depth = node.shape(1)[-1]
    rows, columns = prod(shape[:depth]), prod(shape[depth:])

    def compute(data: Tensor, indices: Tensor, updates: Tensor) -> Tensor:
        places = _linear(indices, shape[:depth]).reshape(-1, 1).expand(-1, columns)
        table, source = data.reshape(rows, columns), updates.reshape(-1, columns)
        if reduction is None:
            return torch.scatter(table, 0, places, source).reshape(shape)
        return torch.scatter_reduce(table, 0, places, source, reduction).reshape(shape)

    return compute


def _one_hot(node: OnnxNode) -> Computation:
    depth = int(node.static(1).reshape(-1)[0])
    rank = node.rank(0) + 1
    axis = node.positive_axis(int(node.attribute("axis", -1)), rank)
    classes = torch.arange(depth).reshape([depth if place == axis else 1 for place in range(rank)])

    def compute(indices: Tensor, _depth: Tensor, values: Tensor) -> Tensor:
        is_hot = torch.remainder(indices.unsqueeze(axis), depth).to(torch.int64) == classes
        is_hot = is_hot & _is_within(indices, depth).unsqueeze(axis)
        return torch.where(is_hot, values[1], values[0])

    return compute


def _is_within(indices: Tensor, depth: int) -> Tensor:
    return (indices >= -depth) & (indices < depth)


def _non_zero(node: OnnxNode) -> Computation:
    node.static(0)  # the shape of the result depends on it
    return lambda data: torch.nonzero(data.reshape(1) if data.dim() == 0 else data).t()


def _unique(node: OnnxNode) -> Computation:
    data = node.static(0)  # the shape of the results depends on it
    axis = node.attribute("axis", None)
    values, first, inverse, counts = np.unique(
        data, return_index=True, return_inverse=True, return_counts=True, axis=axis
    )
    order = np.arange(len(first)) if node.attribute("sorted", 1) else np.argsort(first)
    values = np.take(values, order, axis=axis or 0)
    renumbered = np.argsort(order)[inverse.reshape(-1)]
    results = (values, first[order], renumbered, counts[order])
    dtypes = (node.dtype(0), torch.int64, torch.int64, torch.int64)
    return lambda *_: tuple(torch.tensor(part).to(dtype) for part, dtype in zip(results, dtypes, strict=True))


def _compress(node: OnnxNode) -> Computation:
    kept = np.flatnonzero(node.static(1)).tolist()
    if "axis" not in node.attributes:
        return lambda data, *_: data.reshape(-1).index_select(0, torch.tensor(kept, dtype=torch.int64))
    axis = node.axis(0)
    return lambda data, *_: data.index_select(axis, torch.tensor(kept, dtype=torch.int64))


def _reverse_sequence(node: OnnxNode) -> Computation:
    batch_axis, time_axis = int(node.attribute("batch_axis", 1)), int(node.attribute("time_axis", 0))
    shape = node.shape(0)
    steps = shape[time_axis]
    result_shape = [size if axis in (batch_axis, time_axis) else 1 for axis, size in enumerate(shape)]

    def compute(data: Tensor, lengths: Tensor) -> Tensor:
        time = torch.arange(steps).reshape(1, steps)
        lengths = lengths.reshape(-1, 1)
        source = torch.where(time < lengths, lengths - 1 - time, time)
        source = source if batch_axis < time_axis else source.t()
        return torch.gather(data, time_axis, source.reshape(result_shape).expand(shape))

    return compute


RULES: dict[str, Rule] = {
    "Compress": _compress,
    "Gather": _gather,
    "GatherElements": _gather_elements,
    "GatherND": _gather_nd,
    "NonZero": _non_zero,
    "OneHot": _one_hot,
    "ReverseSequence": _reverse_sequence,
    "Scatter": _scatter_elements,
    "ScatterElements": _scatter_elements,
    "ScatterND": _scatter_nd,
    "Unique": _unique,
}
