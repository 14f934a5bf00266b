"""What sort of kernel each kernel of a compiled network is, and how many multiply-accumulates it does.

Both come from the options it was declared with, so channels that only fill up a block count, and so do the taps of a
convolution that lie outside the image. Winograd's kernels count the multiply-accumulates of the direct convolution.
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
    """Kind of a kernel for people, the latency model's kind of such a layer, and multiply-accumulates."""

    kind: str
    layer_kind: LayerKind
    macs: int


def work_of(kernel: KernelDescription) -> Work:
    """Return what a kernel does; one this file does not know is called by its name and has no multiply-accumulates."""
    known = _DECLARED.get(kernel.kind)
    return known(kernel.options) if known else Work(kernel.kind.replace("_", " "), LayerKind.OTHER, 0)


def _convolution(options: Mapping[str, Any]) -> Work:
    described = convolution.Convolution.read(dict(options))
    if described.groups > 1:
        return Work("grouped convolution", LayerKind.GROUPED_CONV, described.macs)
    if described.rows.kernel == described.columns.kernel == 1:
        return Work("pointwise convolution", LayerKind.POINTWISE_CONV, described.macs)
    return Work("direct convolution", LayerKind.CONV, described.macs)


def _winograd(options: Mapping[str, Any]) -> Work:
    described = winograd.Winograd(**options)
    inputs = described.input_blocks * described.input_block
    return Work("Winograd convolution", LayerKind.CONV, prod(described.output_shape) * inputs * 9)


def _depthwise(options: Mapping[str, Any]) -> Work:
    macs = depthwise.Depthwise.read(dict(options)).macs
    return Work("depthwise convolution", LayerKind.DEPTHWISE_CONV, macs)


def _transposed_convolution(options: Mapping[str, Any]) -> Work:
    described = transposed_convolution.TransposedConvolution.read(dict(options))
    phases = product(described.rows.phases, described.columns.phases)
    macs = sum(described.convolution(row.window, column.window).macs for row, column in phases)
    return Work("transposed convolution", LayerKind.TRANSPOSED_CONV, macs)


def _dot_products(options: Mapping[str, Any]) -> Work:
    described = dot_products.DotProducts(**options)
    return Work("linear, few rows", LayerKind.LINEAR, described.rows * described.outputs * described.depth)


def _matrix_product(options: Mapping[str, Any]) -> Work:
    described = matrix_product.MatrixProduct.read(dict(options))
    if described.right is None:
        return Work("linear, many rows", LayerKind.LINEAR, described.macs)
    return Work("batched product", LayerKind.MATMUL, described.macs)


def _without_products(kind: str, layer_kind: LayerKind) -> Callable[[Mapping[str, Any]], Work]:
    return lambda _options: Work(kind, layer_kind, 0)


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
