"""Importing what TVM's importer gets wrong: types of numbers, and indices that nobody checks.

It makes every result of a convolution or a matrix product FP32, and lacks the transposed convolution of volumes. What
it makes of a look-up reads beyond the table for an index that is too large; here such an index reads the last row.
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


def _rows_of_table(node: fx.Node, importer: BaseFXGraphImporter) -> relax.Var:
    table, indices = importer.env[argument(node, "weight")], importer.env[argument(node, "indices")]
    return importer.block_builder.emit(relax.op.take(table, indices, axis=0, mode="clip"))


def _selected(node: fx.Node, importer: BaseFXGraphImporter) -> relax.Var:
    data, indices = importer.env[argument(node, "self")], importer.env[argument(node, "index")]
    return importer.block_builder.emit(relax.op.take(data, indices, axis=argument(node, "dim"), mode="clip"))


CONVERTERS: dict[str, Converter] = {
    "conv1d.default": _convolution(relax.op.nn.conv1d),
    "conv2d.default": _convolution(relax.op.nn.conv2d),
    "conv3d.default": _convolution(relax.op.nn.conv3d),
    "conv_transpose1d.default": _convolution(relax.op.nn.conv1d_transpose, is_transposed=True),
    "conv_transpose2d.input": _convolution(relax.op.nn.conv2d_transpose, is_transposed=True),
    "conv_transpose3d.input": _convolution(relax.op.nn.conv3d_transpose, is_transposed=True),
    "bmm.default": _product,
    "embedding.default": _rows_of_table,
    "index_select.default": _selected,
    "matmul.default": _product,
    "mm.default": _product,
}
"""By the importer's name of the operation."""
