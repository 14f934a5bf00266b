"""Importing convolutions and matrix products of any type of number; TVM's importer makes every result FP32.

It also lacks the transposed convolution of volumes.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import fx
from tvm import relax
from tvm.relax.frontend.torch.base_fx_graph_translator import BaseFXGraphImporter

from cospipe.ir.graph import argument

Converter = Callable[[fx.Node, BaseFXGraphImporter], relax.Var]


def _convolution(operation: Callable[..., relax.Expr], is_transposed: bool = False) -> Converter:
    def convert(node: fx.Node, importer: BaseFXGraphImporter) -> relax.Var:
        data, weight = (importer.env[argument(node, name)] for name in ("input", "weight"))
        options = {"output_padding": argument(node, "output_padding")} if is_transposed else {}
        result = importer.block_builder.emit(
            operation(
                data,
                weight,
                strides=argument(node, "stride"),
                padding=argument(node, "padding"),
                dilation=argument(node, "dilation"),
                groups=argument(node, "groups"),
                out_dtype=str(data.ty.dtype),
                **options,
            )
        )
        if argument(node, "bias") is None:
            return result
        bias = relax.op.reshape(importer.env[argument(node, "bias")], (1, -1, *[1] * (data.ty.ndim - 2)))
        return importer.block_builder.emit(relax.op.add(result, bias))

    return convert


def _product(node: fx.Node, importer: BaseFXGraphImporter) -> relax.Var:
    left, right = (importer.env[factor] for factor in node.args)
    return importer.block_builder.emit(relax.op.matmul(left, right))


CONVERTERS: dict[str, Converter] = {
    "conv1d.default": _convolution(relax.op.nn.conv1d),
    "conv2d.default": _convolution(relax.op.nn.conv2d),
    "conv3d.default": _convolution(relax.op.nn.conv3d),
    "conv_transpose1d.default": _convolution(relax.op.nn.conv1d_transpose, is_transposed=True),
    "conv_transpose2d.input": _convolution(relax.op.nn.conv2d_transpose, is_transposed=True),
    "conv_transpose3d.input": _convolution(relax.op.nn.conv3d_transpose, is_transposed=True),
    "bmm.default": _product,
    "matmul.default": _product,
    "mm.default": _product,
}
"""By the importer's name of the operation."""
