"""Sizes of many layers as numpy arrays: what latency regressions are computed from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isqrt, prod

import numpy as np
from numpy.typing import NDArray

from cospipe.ir.layer import LayerDescriptor, LayerKind

Array = NDArray[np.float64]

WINOGRAD_OUTPUT = 4
"""Side of the square of outputs that one tile of Winograd's method gives; most libraries take 4."""


@dataclass(frozen=True)
class LayerFeatures:
    """One entry a layer in every array; sizes that a layer does not have are 1, so that logarithms exist.

    ``rows``, ``inner`` and ``columns`` are N, K and M of the matrix product; ``tiles`` are Winograd's, ``taps`` the
    elements of the kernel, ``transform`` the elements of one transformed Winograd tile, ``gathers`` is 1 where the
    input must be gathered into the N x K matrix (any kernel or stride beyond 1) and 0 where it is that matrix already.
    """

    rows: Array
    inner: Array
    columns: Array
    channels: Array
    taps: Array
    stride: Array
    tiles: Array
    transform: Array
    gathers: Array
    row_length: Array
    kernel_height: Array
    input_bytes: Array
    weight_bytes: Array
    output_bytes: Array
    macs: Array

    def take(self, chosen: NDArray[np.bool_]) -> LayerFeatures:
        """Return the chosen layers only."""
        return LayerFeatures(**{name: array[chosen] for name, array in vars(self).items()})


def layer_features(layers: Sequence[LayerDescriptor]) -> LayerFeatures:
    """Return the sizes of these layers."""
    rows = [_row(layer) for layer in layers]
    table = np.array(rows, dtype=np.float64).reshape(len(layers), len(LayerFeatures.__dataclass_fields__))
    return LayerFeatures(*table.T)


def is_square_and_dense(layer: LayerDescriptor) -> bool:
    """Return whether Winograd's method could compute this layer: a k x k convolution that skips no pixel, k > 1."""
    kernel = layer.kernel
    is_square = len(kernel) == 2 and kernel[0] == kernel[1] > 1
    return is_square and layer.kind is LayerKind.CONV and layer.stride == layer.dilation == 1


def _row(layer: LayerDescriptor) -> tuple[float, ...]:
    taps = prod(layer.kernel) if layer.kernel else 1
    height, width = _output_size(layer)
    images = max(layer.gemm_n // max(height * width, 1), 1)
    side = WINOGRAD_OUTPUT
    return (
        max(layer.gemm_n, 1),
        max(layer.gemm_k, 1),
        max(layer.gemm_m, 1),
        max(layer.gemm_k // taps, 1) * layer.groups,
        taps,
        layer.stride,
        images * -(-height // side) * -(-width // side),
        (side + layer.kernel[0] - 1) ** 2 if layer.kernel else 1,
        float(taps > 1 or layer.stride > 1),
        width,
        layer.kernel[0] if layer.kernel else 1,
        layer.input_bytes,
        layer.weight_bytes,
        layer.output_bytes,
        max(layer.macs, 1),
    )


def _output_size(layer: LayerDescriptor) -> tuple[int, int]:
    if len(layer.output_size) == 2:
        return layer.output_size[0], layer.output_size[1]
    side = max(isqrt(layer.gemm_n), 1)
    return (side, side) if side * side == layer.gemm_n else (1, max(layer.gemm_n, 1))
