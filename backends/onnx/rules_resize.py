"""The rule of Resize: PyTorch's own operations where they compute the same, look-ups and products where not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from cospipe.backends.onnx.node import Computation, OnnxNode, Rule
from cospipe.backends.onnx.resize_axis import (
    Axis,
    Indices,
    Interpolation,
    Positions,
    Taps,
    matrix,
    nearest,
    pytorch_axis,
    source_positions,
)

_MODES = (
    "half_pixel",
    "half_pixel_symmetric",
    "pytorch_half_pixel",
    "align_corners",
    "asymmetric",
    "tf_crop_and_resize",
    "tf_half_pixel_for_nn",
)
_MOST_SUMMED_TAPS = 4
"""Up to so many elements, looking them up and adding costs less than a product with a matrix, nearly all zeros."""
_PYTORCHS_COEFFICIENT = -0.75

Resampling = Callable[[Tensor], Tensor]


def _resize(node: OnnxNode) -> Computation:
    coordinates = _known(node, "coordinate_transformation_mode", "half_pixel", _MODES)
    mode = _known(node, "mode", "nearest", ("nearest", "linear", "cubic"))
    axes = _axes(node, is_cropping=coordinates == "tf_crop_and_resize")
    positions = [source_positions(axis, coordinates) for axis in axes]
    if mode == "nearest":
        resample = _nearest(node, axes, positions)
    else:
        resample = _interpolated(node, mode, coordinates, axes, positions)
    if coordinates != "tf_crop_and_resize":
        return lambda data, *_: resample(data)
    outside = _outside(node.rank(0), axes, positions)
    filling = float(node.attribute("extrapolation_value", 0.0))
    return lambda data, *_: resample(data).masked_fill(torch.tensor(outside), filling)


def _known(node: OnnxNode, name: str, default: str, known: Sequence[str]) -> str:
    value = str(node.attribute(name, default))
    if value not in known:
        raise node.unsupported(f"{name} {value!r}")
    return value


def _axes(node: OnnxNode, is_cropping: bool) -> list[Axis]:
    """Return the axes that change."""
    shape, rank = node.shape(0), node.rank(0)
    chosen = [node.positive_axis(axis, rank) for axis in node.integers("axes", default=range(rank)) or ()]
    sizes = [shape[axis] for axis in chosen]
    if node.has(3) and node.shape(3) != (0,):
        outputs, scales = _from_sizes(node, sizes, [int(size) for size in node.static(3)])
    elif node.has(2) and node.shape(2) != (0,):
        factors = node.static(2).astype(np.float32)
        outputs = [int(np.floor(np.float32(size) * factor)) for size, factor in zip(sizes, factors, strict=True)]
        scales = [float(factor) for factor in factors]
    else:
        raise node.unsupported("neither 'scales' nor 'sizes'")
    regions = _regions(node, len(chosen)) if is_cropping else [(0.0, 1.0)] * len(chosen)
    axes = map(Axis, chosen, sizes, outputs, scales, regions)
    return [axis for axis in axes if (axis.output, axis.scale, axis.region) != (axis.size, 1.0, (0.0, 1.0))]


def _from_sizes(node: OnnxNode, sizes: Sequence[int], wanted: Sequence[int]) -> tuple[list[int], list[float]]:
    policy = _known(node, "keep_aspect_ratio_policy", "stretch", ("stretch", "not_larger", "not_smaller"))
    scales = [want / size for want, size in zip(wanted, sizes, strict=True)]
    if policy == "stretch":
        return list(wanted), scales
    scale = min(scales) if policy == "not_larger" else max(scales)
    return [int(np.floor(scale * size + 0.5)) for size in sizes], [scale] * len(sizes)


def _regions(node: OnnxNode, count: int) -> list[tuple[float, float]]:
    corners = [float(corner) for corner in node.static(1)]
    return list(zip(corners[:count], corners[count:], strict=True))


def _outside(
    rank: int, axes: Sequence[Axis], positions: Sequence[Positions]
) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    """Return which outputs look beyond the border, in a shape that spreads over the result."""
    result = np.zeros([1] * rank, dtype=np.bool_)
    for axis, places in zip(axes, positions, strict=True):
        shape = [1] * rank
        shape[axis.dimension] = axis.output
        result = result | ((places < 0) | (places > axis.size - 1)).reshape(shape)
    return result


def _chain(steps: Sequence[Resampling]) -> Resampling:
    return lambda data: reduce(lambda resized, step: step(resized), steps, data)


def _nearest(node: OnnxNode, axes: Sequence[Axis], positions: Sequence[Positions]) -> Resampling:
    modes = ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")
    mode = _known(node, "nearest_mode", "round_prefer_floor", modes)
    indices = [nearest(axis, places, mode) for axis, places in zip(axes, positions, strict=True)]
    factors = _repetitions(axes, indices)
    if factors is not None and _are_of_image(node, axes) and node.dtype(0).is_floating_point:
        return lambda image: functional.interpolate(image, scale_factor=factors, mode="nearest")
    return _chain([_picked(axis.dimension, chosen) for axis, chosen in zip(axes, indices, strict=True)])


def _repetitions(axes: Sequence[Axis], indices: Sequence[Indices]) -> tuple[float, ...] | None:
    """Return how often each element comes, when all of an axis come equally often."""
    if not all(axis.output % axis.size == 0 for axis in axes):
        return None
    factors = [axis.output // axis.size for axis in axes]
    repeated = (np.arange(axis.output) // factor for axis, factor in zip(axes, factors, strict=True))
    are_same = all(np.array_equal(chosen, plain) for chosen, plain in zip(indices, repeated, strict=True))
    return tuple(float(factor) for factor in factors) if are_same else None


def _picked(dimension: int, indices: Indices) -> Resampling:
    """Return the selection of elements along an axis: a slice where they are evenly spaced."""
    steps = set(np.diff(indices).tolist())
    if len(steps) == 1 and min(steps) > 0:
        chosen = slice(int(indices[0]), int(indices[-1]) + 1, int(min(steps)))
        return lambda data: data[(slice(None),) * dimension + (chosen,)]
    return lambda data: data.index_select(dimension, torch.tensor(indices))


def _are_of_image(node: OnnxNode, axes: Sequence[Axis]) -> bool:
    return node.rank(0) == 4 and [axis.dimension for axis in axes] == [2, 3]


def _interpolated(
    node: OnnxNode, mode: str, coordinates: str, axes: Sequence[Axis], positions: Sequence[Positions]
) -> Resampling:
    if not node.dtype(0).is_floating_point:
        raise node.unsupported(f"mode {mode!r} on integers")
    interpolation = Interpolation(
        reach=1 if mode == "linear" else 2,
        coefficient=float(node.attribute("cubic_coeff_a", _PYTORCHS_COEFFICIENT)),
        is_antialiased=bool(node.attribute("antialias", 0)),
        excludes_outside=bool(node.attribute("exclude_outside", 0)),
    )
    if _are_of_image(node, axes) and _is_pytorchs(interpolation, coordinates, axes, positions):
        size = [axis.output for axis in axes]
        name, are_corners_aligned = ("bilinear", "bicubic")[interpolation.reach - 1], coordinates == "align_corners"
        return lambda image: functional.interpolate(image, size, mode=name, align_corners=are_corners_aligned)
    return _chain(
        [_weighted(axis, interpolation.taps(axis, places)) for axis, places in zip(axes, positions, strict=True)]
    )


def _is_pytorchs(
    interpolation: Interpolation, coordinates: str, axes: Sequence[Axis], positions: Sequence[Positions]
) -> bool:
    """Whether PyTorch looks at the same places with the same weights."""
    is_plain = not (interpolation.is_antialiased or interpolation.excludes_outside)
    if not is_plain or interpolation.coefficient != _PYTORCHS_COEFFICIENT:
        return False
    mode = "align_corners" if coordinates == "align_corners" else "half_pixel"
    theirs = (source_positions(pytorch_axis(axis), mode) for axis in axes)
    return all(np.allclose(places, other, atol=1e-6) for places, other in zip(positions, theirs, strict=True))


def _weighted(axis: Axis, taps: Taps) -> Resampling:
    if taps.indices.shape[1] <= _MOST_SUMMED_TAPS:
        return _summed(axis.dimension, taps)
    weights = matrix(taps, axis.size)

    def multiply(data: Tensor) -> Tensor:
        turned = data.movedim(axis.dimension, -1)
        return torch.matmul(turned, torch.tensor(weights.T, dtype=data.dtype)).movedim(-1, axis.dimension)

    return multiply


def _summed(dimension: int, taps: Taps) -> Resampling:
    def add(data: Tensor) -> Tensor:
        shape = [-1] + [1] * (data.dim() - dimension - 1)
        parts = (
            data.index_select(dimension, torch.tensor(indices)) * torch.tensor(weights, dtype=data.dtype).reshape(shape)
            for indices, weights in zip(taps.indices.T, taps.weights.T, strict=True)
        )
        return reduce(torch.add, parts)

    return add


RULES: dict[str, Rule] = {"Resize": _resize}
