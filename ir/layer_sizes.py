"""Kind and matrix sizes of each ATen operation: a table from operation to one small function."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from operator import getitem
from typing import Any

import torch
from torch import fx

from cospipe.ir.graph import argument, has_argument
from cospipe.ir.layer import LayerKind

aten = torch.ops.aten


@dataclass(frozen=True)
class LayerSize:
    """Kind, matrix sizes and MACs of a layer, as in :class:`~cospipe.ir.layer.LayerDescriptor`."""

    kind: LayerKind
    gemm_n: int
    gemm_k: int = 0
    gemm_m: int = 0
    macs: int = 0
    groups: int = 1
    stride: int = 1
    is_view: bool = False
    """Whether compiled code moves no byte for it."""
    kernel: tuple[int, ...] = ()
    output_size: tuple[int, ...] = ()
    dilation: int = 1


def size_of(node: fx.Node) -> LayerSize:
    """Return kind and sizes of a node; an operation nobody described is ``LayerKind.OTHER``."""
    return _FUNCTIONS.get(node.target, _undescribed)(node)


def shape_of(node: fx.Node) -> torch.Size:
    """Return the shape of a node's result, of the first one when there are several."""
    value = node.meta["val"]
    return value.shape if isinstance(value, torch.Tensor) else value[0].shape


def _convolution(node: fx.Node) -> LayerSize:
    if has_argument(node, "transposed") and argument(node, "transposed"):
        return _transposed_convolution(node)
    weight = shape_of(argument(node, "weight"))
    output, groups = shape_of(node), argument(node, "groups")
    pixels, inner = output.numel() // weight[0], weight[1:].numel()
    return LayerSize(
        kind=_convolution_kind(weight, groups),
        gemm_n=pixels,
        gemm_k=inner,
        gemm_m=weight[0],
        macs=pixels * inner * weight[0],
        groups=groups,
        stride=_stride(node),
        kernel=tuple(weight[2:]),
        output_size=tuple(output[2:]),
        dilation=_last(argument(node, "dilation")),
    )


def _convolution_kind(weight: torch.Size, groups: int) -> LayerKind:
    if groups > 1:
        return LayerKind.DEPTHWISE_CONV if weight[1] == 1 else LayerKind.GROUPED_CONV
    return LayerKind.POINTWISE_CONV if weight[2:].numel() == 1 else LayerKind.CONV


def _transposed_convolution(node: fx.Node) -> LayerSize:
    weight = shape_of(argument(node, "weight"))  # input channels, output channels of a group, kernel
    groups = argument(node, "groups")
    pixels = shape_of(node.all_input_nodes[0]).numel() // weight[0]
    inner, columns = weight[0] // groups, weight[1:].numel() * groups
    macs = pixels * inner * columns
    return LayerSize(LayerKind.TRANSPOSED_CONV, pixels, inner, columns, macs, groups, _stride(node))


def _stride(node: fx.Node) -> int:
    return _last(argument(node, "stride") or argument(node, "kernel_size"))  # pooling strides by its kernel by default


def _last(sizes: int | Sequence[int]) -> int:
    return int(sizes[-1] if isinstance(sizes, Sequence) else sizes)


def _linear(node: fx.Node) -> LayerSize:
    columns, inner = shape_of(argument(node, "weight"))
    rows = shape_of(node).numel() // columns
    return LayerSize(LayerKind.LINEAR, rows, inner, columns, rows * inner * columns)


def _matrix_product(position: int) -> Callable[[fx.Node], LayerSize]:
    """Return the function for products whose left matrix is the argument at ``position``."""

    def size(node: fx.Node) -> LayerSize:
        left, right = (node.args[position], node.args[position + 1])
        assert isinstance(left, fx.Node)
        assert isinstance(right, fx.Node)
        inner, elements = shape_of(left)[-1], shape_of(node).numel()
        columns = shape_of(right)[-1] if len(shape_of(right)) > 1 else 1
        return LayerSize(LayerKind.MATMUL, elements // columns, inner, columns, elements * inner)

    return size


def _einsum(node: fx.Node) -> LayerSize:
    operands = [shape_of(operand) for operand in argument(node, "tensors")]
    equation = argument(node, "equation").replace(" ", "")
    if len(operands) != 2:
        return LayerSize(LayerKind.OTHER, shape_of(node).numel())
    terms, _, result = equation.partition("->")
    left, right = terms.split(",")
    sizes = {**_label_sizes(left, operands[0]), **_label_sizes(right, operands[1])}
    inner = prod(sizes[label] for label in sizes if label not in result)
    columns = prod(sizes[label] for label in set(right) - set(left) if label in sizes and label in result)
    elements = shape_of(node).numel()
    return LayerSize(LayerKind.MATMUL, elements // columns, inner, columns, elements * inner)


def _label_sizes(labels: str, shape: torch.Size) -> dict[str, int]:
    before, _, after = labels.partition("...")
    tail = list(zip(after, shape[len(shape) - len(after) :], strict=True))
    return dict([*zip(before, shape, strict=False), *tail])


def _attention(node: fx.Node) -> LayerSize:
    query, key, value = (shape_of(argument(node, name)) for name in ("query", "key", "value"))
    rows = query.numel() // query[-1]
    macs = rows * key[-2] * (query[-1] + value[-1])
    return LayerSize(LayerKind.ATTENTION, rows, query[-1], key[-2], macs)


def _pooling(node: fx.Node) -> LayerSize:
    return LayerSize(LayerKind.POOLING, shape_of(node).numel(), stride=_stride(node))


def _mean(node: fx.Node) -> LayerSize:
    dimensions, rank = argument(node, "dim"), len(shape_of(node.all_input_nodes[0]))
    is_spatial = bool(dimensions) and rank > 2 and all(dimension % rank >= 2 for dimension in dimensions)
    return LayerSize(LayerKind.POOLING if is_spatial else LayerKind.OTHER, shape_of(node).numel())


def _plain(kind: LayerKind) -> Callable[[fx.Node], LayerSize]:
    return lambda node: LayerSize(kind, shape_of(node).numel())


def _view(node: fx.Node) -> LayerSize:
    return LayerSize(LayerKind.RESHAPE, shape_of(node).numel(), is_view=True)


def _undescribed(node: fx.Node) -> LayerSize:
    is_pointwise = torch.Tag.pointwise in getattr(node.target, "tags", ())
    return LayerSize(LayerKind.ELEMENTWISE if is_pointwise else LayerKind.OTHER, shape_of(node).numel())


def _all(operations: Sequence[Any], function: Callable[[fx.Node], LayerSize]) -> dict[Any, Callable[..., LayerSize]]:
    return {overload: function for operation in operations for overload in _overloads(operation)}


def _overloads(operation: Any) -> list[Any]:
    if not hasattr(operation, "overloads"):  # a single overload, or no ATen operation
        return [operation]
    return [getattr(operation, name) for name in operation.overloads()]


_FUNCTIONS: dict[Any, Callable[[fx.Node], LayerSize]] = {
    **_all([aten.conv1d, aten.conv2d, aten.conv3d, aten.convolution], _convolution),
    **_all([aten.conv_transpose1d, aten.conv_transpose2d, aten.conv_transpose3d], _transposed_convolution),
    **_all([aten.linear], _linear),
    **_all([aten.mm, aten.bmm, aten.matmul], _matrix_product(0)),
    **_all([aten.addmm, aten.baddbmm], _matrix_product(1)),
    **_all([aten.einsum], _einsum),
    **_all([aten.scaled_dot_product_attention], _attention),
    **_all([aten.max_pool1d, aten.max_pool2d, aten.max_pool2d_with_indices, aten.max_pool3d], _pooling),
    **_all([aten.avg_pool1d, aten.avg_pool2d, aten.avg_pool3d], _pooling),
    **_all([aten.adaptive_avg_pool1d, aten.adaptive_avg_pool2d, aten._adaptive_avg_pool2d], _plain(LayerKind.POOLING)),
    **_all([aten.adaptive_max_pool1d, aten.adaptive_max_pool2d], _plain(LayerKind.POOLING)),
    **_all([aten.mean.dim], _mean),
    **_all([aten.batch_norm, aten.native_batch_norm], _plain(LayerKind.NORMALISATION)),
    **_all([aten._native_batch_norm_legit_no_training], _plain(LayerKind.NORMALISATION)),
    **_all([aten.layer_norm, aten.native_layer_norm, aten.rms_norm], _plain(LayerKind.NORMALISATION)),
    **_all([aten.group_norm, aten.native_group_norm, aten.instance_norm], _plain(LayerKind.NORMALISATION)),
    **_all([aten.hardswish, aten.prelu, aten.log_sigmoid, aten.logit], _plain(LayerKind.ELEMENTWISE)),
    **_all([aten.softmax, aten._softmax, aten.log_softmax, aten._log_softmax], _plain(LayerKind.SOFTMAX)),
    **_all([aten.cat, aten.stack], _plain(LayerKind.CONCAT)),
    **_all(
        [aten.permute, aten.transpose, aten.t, aten.pad, aten.constant_pad_nd, aten.roll], _plain(LayerKind.RESHAPE)
    ),
    **_all([aten.expand, aten.repeat, aten.flip, aten.index, aten.pixel_shuffle], _plain(LayerKind.RESHAPE)),
    **_all([aten.slice, aten.split, aten.split_with_sizes, aten.chunk, aten.pixel_shuffle], _plain(LayerKind.RESHAPE)),
    **_all([aten.view, aten.reshape, aten.flatten, aten.unflatten, aten.squeeze, aten.unsqueeze], _view),
    **_all([aten.select, aten.alias, aten.detach, aten.clone, aten.contiguous, getitem], _view),
}
