"""What sort of kernel each kernel of a compiled network is, and how many multiply-accumulates it does.

Both come from the options it was declared with, so channels that only fill up a block count, and so do the zeros
between groups that are computed as one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import product
from math import prod
from typing import Any, NamedTuple

from cospipe.backends.tvm.kernel_descriptions import GENERIC_ELEMENTWISE, GENERIC_REDUCTION, KernelDescription
from cospipe.backends.tvm.kernels import (
    channel_gather,
    convolution,
    depthwise,
    dot_products,
    layer_norm,
    matrix_product,
    pooling,
    softmax,
    transposed_convolution,
    winograd,
)
from cospipe.ir.layer import LayerKind


class Work(NamedTuple):
    """What a kernel does.

    Parameters
    ----------
    kind : str
        For people.
    layer_kind : LayerKind
        What the latency model calls such a layer.
    macs : int
        Multiply-accumulates as they are usually counted: those of the direct method, taps outside the image included.
    done_macs : int
        Those the kernel really does: none outside the image, and only the products of Winograd's method.
    """

    kind: str
    layer_kind: LayerKind
    macs: int
    done_macs: int


def work_of(kernel: KernelDescription) -> Work:
    """Return what a kernel does; one this file does not know is called by its name and has no multiply-accumulates."""
    known = _DECLARED.get(kernel.kind)
    return known(kernel.options) if known else Work(kernel.kind.replace("_", " "), LayerKind.OTHER, 0, 0)


def _convolution(options: Mapping[str, Any]) -> Work:
    described = convolution.Convolution.read(dict(options))
    done = round(described.macs * _share_inside(described.rows, described.columns))
    if described.groups > 1:
        return Work("grouped convolution", LayerKind.GROUPED_CONV, described.macs, done)
    if described.rows.kernel == described.columns.kernel == 1:
        return Work("pointwise convolution", LayerKind.POINTWISE_CONV, described.macs, done)
    return Work("direct convolution", LayerKind.CONV, described.macs, done)


def _share_inside(*windows: convolution.Window) -> float:
    """Return the share of the taps of all outputs that lie in the image."""
    share = 1.0
    for window in windows:
        taps = list(product(range(window.output), range(window.kernel)))
        share *= sum(window.is_inside(output, tap) for output, tap in taps) / max(1, len(taps))
    return share


def _winograd(options: Mapping[str, Any]) -> Work:
    described = winograd.Winograd(**options)
    inputs = described.input_blocks * described.input_block
    outputs = described.output_blocks * described.output_block
    done = described.batch * described.tiles * described.patch**2 * inputs * outputs
    return Work("Winograd convolution", LayerKind.CONV, prod(described.output_shape) * inputs * 9, done)


def _depthwise(options: Mapping[str, Any]) -> Work:
    described = depthwise.Depthwise.read(dict(options))
    done = round(described.macs * _share_inside(described.rows, described.columns))
    return Work("depthwise convolution", LayerKind.DEPTHWISE_CONV, described.macs, done)


def _transposed_convolution(options: Mapping[str, Any]) -> Work:
    described = transposed_convolution.TransposedConvolution.read(dict(options))
    windows = [(row.window, column.window) for row, column in product(described.rows.phases, described.columns.phases)]
    macs = [described.convolution(rows, columns, columns.output).macs for rows, columns in windows]
    done = sum(count * _share_inside(*pair) for count, pair in zip(macs, windows, strict=True))
    return Work("transposed convolution", LayerKind.TRANSPOSED_CONV, sum(macs), round(done))


def _dot_products(options: Mapping[str, Any]) -> Work:
    described = dot_products.DotProducts(**options)
    macs = described.rows * described.outputs * described.depth
    return Work("linear, few rows", LayerKind.LINEAR, macs, macs)


def _matrix_product(options: Mapping[str, Any]) -> Work:
    described = matrix_product.MatrixProduct.read(dict(options))
    if described.right is None:
        return Work("linear, many rows", LayerKind.LINEAR, described.macs, described.macs)
    return Work("batched product", LayerKind.MATMUL, described.macs, described.macs)


def _without_products(kind: str, layer_kind: LayerKind) -> Callable[[Mapping[str, Any]], Work]:
    return lambda _options: Work(kind, layer_kind, 0, 0)


_DECLARED: dict[str, Callable[[Mapping[str, Any]], Work]] = {
    convolution.NAME: _convolution,
    winograd.NAME: _winograd,
    depthwise.NAME: _depthwise,
    transposed_convolution.NAME: _transposed_convolution,
    pooling.NAME: _without_products("pooling", LayerKind.POOLING),
    softmax.NAME: _without_products("softmax", LayerKind.SOFTMAX),
    layer_norm.NAME: _without_products("layer norm", LayerKind.NORMALISATION),
    channel_gather.NAME: _without_products("channel copies", LayerKind.CONCAT),
    dot_products.NAME: _dot_products,
    matrix_product.NAME: _matrix_product,
    GENERIC_ELEMENTWISE: _without_products("elementwise, copies", LayerKind.ELEMENTWISE),
    GENERIC_REDUCTION: _without_products("generic reduction", LayerKind.OTHER),
}
