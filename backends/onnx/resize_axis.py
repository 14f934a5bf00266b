"""How one axis of a tensor is resized: which elements an output is made of, and with what weights.

Everything is computed when the network is compiled; sizes are known then.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import floor
from typing import Any, TypeAlias

import numpy as np

Positions: TypeAlias = np.ndarray[Any, np.dtype[np.float32]]
Weights: TypeAlias = np.ndarray[Any, np.dtype[np.float64]]
Indices: TypeAlias = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True)
class Axis:
    """One axis that changes.

    Parameters
    ----------
    dimension : int
        Its number.
    size, output : int
        Elements before and after.
    scale : float
        As the file gives it; ``output / size`` is only close to it.
    region : tuple of float
        First and last position that is looked at, as parts of the whole; for ``tf_crop_and_resize``.
    """

    dimension: int
    size: int
    output: int
    scale: float
    region: tuple[float, float] = (0.0, 1.0)


@dataclass(frozen=True)
class Taps:
    """The elements each output is a weighted sum of: ``indices`` and ``weights`` have the shape (outputs, taps)."""

    indices: Indices
    weights: Weights


def source_positions(axis: Axis, mode: str) -> Positions:
    """Return where each output lies in the input, in elements.

    The numbers are those of single precision, as other runtimes compute them: which element is the nearest to a place
    half-way between two depends on it.

    Parameters
    ----------
    axis : Axis
        The axis.
    mode : str
        ONNX's ``coordinate_transformation_mode``.
    """
    outputs, scale, half = np.arange(axis.output, dtype=np.float32), np.float32(axis.scale), np.float32(0.5)
    last = np.float32(axis.size - 1)
    positions: Positions = (outputs + half) / scale - half
    if mode == "asymmetric":
        positions = outputs / scale
    elif mode == "align_corners":
        positions = outputs * last / np.float32(max(axis.output - 1, 1))
    elif mode == "tf_crop_and_resize":
        positions = _in_region(axis, outputs)
    elif mode == "pytorch_half_pixel" and axis.output == 1:
        positions = outputs
    elif mode == "tf_half_pixel_for_nn":
        positions = (outputs + half) / scale
    elif mode == "half_pixel_symmetric":
        positions = positions + np.float32(axis.size / 2 * (1 - axis.output / (axis.scale * axis.size)))
    return positions


def _in_region(axis: Axis, outputs: Positions) -> Positions:
    (start, end), last = (np.float32(edge) for edge in axis.region), np.float32(axis.size - 1)
    positions: Positions = outputs + np.float32(0.5 * float(start + end) * float(last))
    if axis.output > 1:
        positions = start * last + outputs * (end - start) * last / np.float32(axis.output - 1)
    return positions


def nearest(axis: Axis, positions: Positions, mode: str) -> Indices:
    """Return the element nearest to each position, in the way that ONNX's ``nearest_mode`` says."""
    half = np.float32(0.5)
    rounded = {
        "round_prefer_floor": np.ceil(positions - half),
        "round_prefer_ceil": np.floor(positions + half),
        "floor": np.floor(positions),
        "ceil": np.ceil(positions),
    }[mode]
    indices: Indices = np.clip(rounded, 0, axis.size - 1).astype(np.int64)
    return indices


def linear(distances: Weights) -> Weights:
    """Return the weights of elements at these distances for linear interpolation."""
    weights: Weights = np.maximum(1 - np.abs(distances), 0)
    return weights


def cubic(distances: Weights, coefficient: float) -> Weights:
    """Return the weights of elements at these distances for cubic convolution (Keys, 1981)."""
    far = np.abs(distances)
    inner = ((coefficient + 2) * far - (coefficient + 3)) * far**2 + 1
    outer = ((far - 5) * far + 8) * far * coefficient - 4 * coefficient
    return np.where(far <= 1, inner, np.where(far < 2, outer, 0.0))


@dataclass(frozen=True)
class Interpolation:
    """How weights are made.

    Parameters
    ----------
    reach : int
        Elements on either side of a position: 1 for linear, 2 for cubic.
    coefficient : float
        Of the cubic.
    is_antialiased : bool
        Whether the window is widened when the axis shrinks.
    excludes_outside : bool
        Whether elements beyond the border count nothing; otherwise those at the border are taken for them.
    """

    reach: int
    coefficient: float
    is_antialiased: bool
    excludes_outside: bool

    def taps(self, axis: Axis, positions: Positions) -> Taps:
        """Return the elements and weights for each position."""
        shrink = min(axis.scale, 1.0) if self.is_antialiased else 1.0
        first = floor(-self.reach / shrink) + 1
        indices = np.floor(positions).astype(np.int64)[:, None] + np.arange(first, 2 - first)
        distances: Weights = (indices - positions[:, None]).astype(np.float64) * shrink
        weights = linear(distances) if self.reach == 1 else cubic(distances, self.coefficient)
        if self.excludes_outside:
            weights = np.where((indices >= 0) & (indices < axis.size), weights, 0.0)
        total = weights.sum(axis=1, keepdims=True)
        return Taps(np.clip(indices, 0, axis.size - 1), weights / np.where(total == 0, 1, total))


def matrix(taps: Taps, size: int) -> Weights:
    """Return the matrix (outputs, size) which resizes a column."""
    result = np.zeros((len(taps.indices), size))
    np.add.at(result, (np.arange(len(taps.indices))[:, None], taps.indices), taps.weights)
    return result


def pytorch_axis(axis: Axis) -> Axis:
    """Return the axis as PyTorch sees it, which takes the scale from the sizes."""
    return replace(axis, scale=axis.output / axis.size)
