"""Rules of operations that make one number of many: reductions, arg max, running sums, the largest k."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from cospipe.backends.onnx.node import Computation, OnnxNode, Rule

Reduction = Callable[[Tensor, tuple[int, ...], bool], Tensor]


def _reduction(function: Reduction) -> Rule:
    def rule(node: OnnxNode) -> Computation:
        rank = node.rank(0)
        given = node.integers("axes", 1)
        if not given and node.attribute("noop_with_empty_axes", 0):
            return _reduction_of_nothing(function)
        axes = tuple(node.positive_axis(axis, rank) for axis in given or range(rank))
        if not axes:
            return _reduction_of_nothing(function)
        keeps_axes = bool(node.attribute("keepdims", 1))
        return lambda data, *_: function(data, axes, keeps_axes)

    return rule


def _reduction_of_nothing(function: Reduction) -> Computation:
    """Return a reduction over one element each: ReduceSumSquare still squares."""
    return lambda data, *_: function(data.unsqueeze(-1), (-1,), False)


def _sum(data: Tensor, axes: tuple[int, ...], keeps_axes: bool) -> Tensor:
    return torch.sum(data, axes, keepdim=keeps_axes, dtype=data.dtype)


def _mean(data: Tensor, axes: tuple[int, ...], keeps_axes: bool) -> Tensor:
    if data.is_floating_point():
        return torch.mean(data, axes, keepdim=keeps_axes)
    count = data.numel() // _sum(torch.ones_like(data), axes, keeps_axes).numel()
    return torch.div(_sum(data, axes, keeps_axes), count, rounding_mode="trunc")


def _product(data: Tensor, axes: tuple[int, ...], keeps_axes: bool) -> Tensor:
    # torch multiplies along one axis a time
    for axis in sorted(axes, reverse=True):
        data = torch.prod(data, axis, keepdim=keeps_axes, dtype=data.dtype)
    return data


def _l1(data: Tensor, axes: tuple[int, ...], keeps_axes: bool) -> Tensor:
    return _sum(torch.abs(data), axes, keeps_axes)


def _l2(data: Tensor, axes: tuple[int, ...], keeps_axes: bool) -> Tensor:
    return torch.sqrt(_sum_of_squares(data, axes, keeps_axes)).to(data.dtype)


def _sum_of_squares(data: Tensor, axes: tuple[int, ...], keeps_axes: bool) -> Tensor:
    return _sum(data * data, axes, keeps_axes)


def _log_of_sum(data: Tensor, axes: tuple[int, ...], keeps_axes: bool) -> Tensor:
    return torch.log(_sum(data, axes, keeps_axes)).to(data.dtype)


def _log_of_sum_of_exponentials(data: Tensor, axes: tuple[int, ...], keeps_axes: bool) -> Tensor:
    return torch.logsumexp(data, axes, keepdim=keeps_axes)


def _largest(data: Tensor, axes: tuple[int, ...], keeps_axes: bool) -> Tensor:
    if data.dtype is torch.bool:
        return _largest(data.to(torch.uint8), axes, keeps_axes).to(torch.bool)
    return _of_any(torch.amax, data, axes, keeps_axes, _lowest(data.dtype))


def _smallest(data: Tensor, axes: tuple[int, ...], keeps_axes: bool) -> Tensor:
    if data.dtype is torch.bool:
        return _smallest(data.to(torch.uint8), axes, keeps_axes).to(torch.bool)
    return _of_any(torch.amin, data, axes, keeps_axes, _highest(data.dtype))


def _of_any(
    function: Callable[..., Tensor], data: Tensor, axes: tuple[int, ...], keeps_axes: bool, of_none: float
) -> Tensor:
    """Return the extreme of each group of elements, and a given number for a group of none."""
    if data.numel() > 0:
        return function(data, axes, keepdim=keeps_axes)
    like = torch.sum(data, axes, keepdim=keeps_axes, dtype=data.dtype)
    return torch.full_like(like, of_none)


def _lowest(dtype: torch.dtype) -> float:
    return float("-inf") if dtype.is_floating_point else torch.iinfo(dtype).min


def _highest(dtype: torch.dtype) -> float:
    return float("inf") if dtype.is_floating_point else torch.iinfo(dtype).max


def _arg(function: Callable[..., Tensor]) -> Rule:
    def rule(node: OnnxNode) -> Computation:
        axis, keeps_axis = node.axis(0), bool(node.attribute("keepdims", 1))
        last = node.shape(0)[axis] - 1
        if not node.attribute("select_last_index", 0):
            return lambda data: function(data, dim=axis, keepdim=keeps_axis)
        return lambda data: last - function(torch.flip(data, (axis,)), dim=axis, keepdim=keeps_axis)

    return rule


def _cumulative_sum(node: OnnxNode) -> Computation:
    axis = node.positive_axis(int(node.static(1).item()), node.rank(0))
    is_reverse, is_exclusive = node.attribute("reverse", 0), node.attribute("exclusive", 0)

    def compute(data: Tensor, *_: Tensor) -> Tensor:
        ordered = torch.flip(data, (axis,)) if is_reverse else data
        sums = torch.cumsum(ordered, axis, dtype=data.dtype)
        if is_exclusive:
            zero = torch.zeros_like(sums.narrow(axis, 0, 1))
            sums = torch.cat([zero, sums.narrow(axis, 0, sums.shape[axis] - 1)], axis)
        return torch.flip(sums, (axis,)) if is_reverse else sums

    return compute


def _top_k(node: OnnxNode) -> Computation:
    axis = node.axis(-1)
    counts = node.integers("k", 1) or ()
    count = counts[0]
    if count > node.shape(0)[axis]:
        raise node.unsupported(f"k = {count} for {node.shape(0)[axis]} elements")
    is_largest = bool(node.attribute("largest", 1))

    def compute(data: Tensor, *_: Tensor) -> tuple[Tensor, ...]:
        # a stable order: of equal elements, the first comes first, as in ONNX
        values, indices = torch.sort(data, dim=axis, descending=is_largest, stable=True)
        return values.narrow(axis, 0, count), indices.narrow(axis, 0, count)

    return compute


RULES: dict[str, Rule] = {
    "ArgMax": _arg(torch.argmax),
    "ArgMin": _arg(torch.argmin),
    "CumSum": _cumulative_sum,
    "ReduceL1": _reduction(_l1),
    "ReduceL2": _reduction(_l2),
    "ReduceLogSum": _reduction(_log_of_sum),
    "ReduceLogSumExp": _reduction(_log_of_sum_of_exponentials),
    "ReduceMax": _reduction(_largest),
    "ReduceMean": _reduction(_mean),
    "ReduceMin": _reduction(_smallest),
    "ReduceProd": _reduction(_product),
    "ReduceSum": _reduction(_sum),
    "ReduceSumSquare": _reduction(_sum_of_squares),
    "TopK": _top_k,
}
