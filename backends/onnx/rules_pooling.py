"""Rules of pooling: maxima, averages and norms under windows or of whole images."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from itertools import product
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from cospipe.backends.onnx.node import Computation, OnnxNode, Rule
from cospipe.backends.onnx.windows import Windows, explicit_padding, find_windows, numbers, pad_image

_MAXIMUM: tuple[Any, ...] = (functional.max_pool1d, functional.max_pool2d, functional.max_pool3d)
_AVERAGE: tuple[Any, ...] = (functional.avg_pool1d, functional.avg_pool2d, functional.avg_pool3d)


def _windows(node: OnnxNode) -> Windows:
    kernel = node.attribute("kernel_shape", None)
    if not kernel:
        raise node.unsupported("pooling without the attribute 'kernel_shape'")
    return find_windows(node, kernel, has_ceil_mode=True)


def _is_pytorchs(windows: Windows) -> bool:
    """Whether PyTorch pads as this operation does: alike at both ends, by no more than half a window."""
    halves = (begin <= taps // 2 for begin, taps in zip(windows.begins, windows.kernel, strict=True))
    return windows.is_symmetric and all(halves)


def _maximum_pool(node: OnnxNode) -> Computation:
    windows, pool = _windows(node), _MAXIMUM[node.rank(0) - 3]
    is_direct = _is_pytorchs(windows)
    padding = windows.begins if is_direct else (0,) * len(windows.begins)
    is_ceil = is_direct and bool(node.attribute("ceil_mode", 0))

    def compute(image: Tensor) -> Tensor:
        numbers_in = image if image.is_floating_point() else image.to(torch.float32)
        padded = numbers_in if is_direct else _pad_to_last_window(numbers_in, windows, -torch.inf)
        largest: Tensor = pool(padded, windows.kernel, windows.strides, padding, windows.dilations, is_ceil)
        return largest.to(image.dtype)

    return _maximum_with_positions(node, windows) if node.has_output(1) else compute


def _pad_to_last_window(image: Tensor, windows: Windows, value: float) -> Tensor:
    return pad_image(image, windows.begins, [max(edge, 0) for edge in windows.behind], value)


def _maximum_with_positions(node: OnnxNode, windows: Windows) -> Computation:
    """Compare what is under each position of the window; the first of equal ones counts.

    TVM's importer gives wrong positions for PyTorch's own operation.
    """
    planes = np.arange(prod(node.shape(0)[:2])).reshape(*node.shape(0)[:2], *[1] * len(windows.sizes))
    taps = list(product(*(range(count) for count in windows.kernel)))
    inside = [_positions(windows, tap, is_by_columns=bool(node.attribute("storage_order", 0))) for tap in taps]

    def compute(image: Tensor) -> tuple[Tensor, Tensor]:
        numbers_in = image if image.is_floating_point() else image.to(torch.float32)
        padded = _pad_to_last_window(numbers_in, windows, -torch.inf)
        largest, positions = _under(padded, windows, taps[0]), torch.tensor(inside[0])
        for tap, places in zip(taps[1:], inside[1:], strict=True):
            other = _under(padded, windows, tap)
            positions = torch.where(other > largest, torch.tensor(places), positions)
            largest = torch.maximum(largest, other)
        return largest.to(image.dtype), positions + torch.tensor(planes * prod(windows.sizes))

    return compute


def _under(image: Tensor, windows: Windows, taps: Sequence[int]) -> Tensor:
    """Return what is under one position of all windows."""
    for axis, tap in enumerate(taps):
        image = _slice(image, windows, axis, tap)
    return image


def _slice(image: Tensor, windows: Windows, axis: int, tap: int) -> Tensor:
    start, stride = tap * windows.dilations[axis], windows.strides[axis]
    places = [slice(None)] * (axis + 2)
    places.append(slice(start, start + (windows.outputs[axis] - 1) * stride + 1, stride))
    return image[tuple(places)]


def _positions(windows: Windows, taps: Sequence[int], is_by_columns: bool) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Return the number, within its plane, of the element under one position of each window."""
    sizes = windows.sizes
    steps = _steps(sizes[::-1])[::-1] if is_by_columns else _steps(sizes)
    positions: np.ndarray[Any, np.dtype[np.int64]] = np.zeros((), dtype=np.int64)
    for axis, tap in enumerate(taps):
        first = tap * windows.dilations[axis] - windows.begins[axis]
        places = np.arange(windows.outputs[axis]) * windows.strides[axis] + first
        positions = np.add.outer(positions, places * steps[axis])
    return positions


def _steps(sizes: Sequence[int]) -> list[int]:
    return [prod(sizes[axis + 1 :]) for axis in range(len(sizes))]


def _average_pool(node: OnnxNode) -> Computation:
    windows = _windows(node)
    counts_padding = bool(node.attribute("count_include_pad", 0))
    if _is_pytorchs(windows) and set(windows.dilations) == {1}:
        pool, is_ceil = _AVERAGE[node.rank(0) - 3], bool(node.attribute("ceil_mode", 0))
        return lambda image: pool(
            image, windows.kernel, windows.strides, windows.begins, is_ceil, count_include_pad=counts_padding
        )
    counts = _counts(windows, counts_padding)
    return lambda image: _window_sum(image, windows) / torch.tensor(counts, dtype=image.dtype)


def _counts(windows: Windows, counts_padding: bool) -> np.ndarray[Any, Any]:
    """Return how many elements each window averages over, in the shape of the result."""
    counts = np.ones((), dtype=np.int64)
    for axis, size in enumerate(windows.sizes):
        first = -windows.begins[axis] if counts_padding else 0
        behind = size + windows.ends[axis] if counts_padding else size
        starts = np.arange(windows.outputs[axis]) * windows.strides[axis] - windows.begins[axis]
        taps = starts[:, None] + np.arange(windows.kernel[axis]) * windows.dilations[axis]
        counts = np.multiply.outer(counts, ((taps >= first) & (taps < behind)).sum(axis=1))
    return np.maximum(counts, 1)


def _window_sum(image: Tensor, windows: Windows) -> Tensor:
    """Add what is under each window; PyTorch's averages have no dilation, so with one it is done axis by axis."""
    padded = _pad_to_last_window(image, windows, 0.0)
    if set(windows.dilations) == {1}:
        average: Tensor = _AVERAGE[len(windows.sizes) - 1](padded, windows.kernel, windows.strides)
        return average * prod(windows.kernel)
    for axis in range(len(windows.sizes)):
        padded = _sum_along(padded, windows, axis)
    return padded


def _sum_along(image: Tensor, windows: Windows, axis: int) -> Tensor:
    return reduce(torch.add, (_slice(image, windows, axis, tap) for tap in range(windows.kernel[axis])))


def _norm_pool(node: OnnxNode) -> Computation:
    windows, power = _windows(node), float(node.attribute("p", 2))
    return lambda image: _window_sum(image.abs() ** power, windows) ** (1 / power)


def _global_average(node: OnnxNode) -> Computation:
    axes = list(range(2, node.rank(0)))
    if len(axes) == 2:
        return lambda image: functional.adaptive_avg_pool2d(image, 1)
    return lambda image: image.mean(axes, keepdim=True)


def _global_maximum(node: OnnxNode) -> Computation:
    axes = list(range(2, node.rank(0)))
    return lambda image: image.amax(axes, keepdim=True)


def _global_norm(node: OnnxNode) -> Computation:
    axes, power = list(range(2, node.rank(0))), float(node.attribute("p", 2))
    return lambda image: (image.abs() ** power).sum(axes, keepdim=True) ** (1 / power)


def _unpool(node: OnnxNode) -> Computation:
    axes = node.rank(0) - 2
    kernel = numbers(node, "kernel_shape", [], axes)
    strides, (begins, ends) = numbers(node, "strides", [1] * axes, axes), explicit_padding(node, axes)
    sizes = [
        (count - 1) * stride - begin - end + taps
        for count, stride, begin, end, taps in zip(node.shape(0)[2:], strides, begins, ends, kernel, strict=True)
    ]
    wanted = [int(size) for size in node.static(2)][2:] if node.has(2) else sizes

    def compute(values: Tensor, positions: Tensor, *_: Tensor) -> Tensor:
        batch, channels = values.shape[:2]
        flat = values.new_zeros(batch * channels * prod(sizes)).scatter(0, positions.reshape(-1), values.reshape(-1))
        image = flat.reshape(batch, channels, *sizes)
        return pad_image(image, [0] * axes, [size - have for size, have in zip(wanted, sizes, strict=True)])

    return compute


RULES: dict[str, Rule] = {
    "AveragePool": _average_pool,
    "GlobalAveragePool": _global_average,
    "GlobalLpPool": _global_norm,
    "GlobalMaxPool": _global_maximum,
    "LpPool": _norm_pool,
    "MaxPool": _maximum_pool,
    "MaxUnpool": _unpool,
}
