"""Batch norm in eval mode is a scale and a shift a channel: fold it into the layer before it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from operator import getitem
from typing import ClassVar

import torch
from torch import fx, nn

from cospipe.ir.adapters import fold_nodes
from cospipe.ir.errors import PassError, several
from cospipe.ir.graph import (
    argument,
    free_name,
    has_argument,
    insert_call,
    insert_get_attr,
    module_path,
    remove_unused_tensors,
    store_tensor,
    stored_tensor,
    tensor_of,
)
from cospipe.ir.meta import Aspect
from cospipe.passes.base import Pass, PassResult

aten = torch.ops.aten

_LAYERS = frozenset(
    {
        aten.conv1d.default,
        aten.conv1d.padding,
        aten.conv2d.default,
        aten.conv2d.padding,
        aten.conv_transpose1d.default,
        aten.conv_transpose2d.input,
        aten.convolution.default,
        aten.linear.default,
    }
)
_TRANSPOSED = frozenset({aten.conv_transpose1d.default, aten.conv_transpose2d.input})
_BATCH_NORMS = frozenset(
    {
        aten._native_batch_norm_legit_no_training.default,
        aten.batch_norm.default,
        aten.native_batch_norm.default,
    }
)
_ALWAYS_TRAINING = frozenset(
    {
        aten._native_batch_norm_legit.default,
        aten._native_batch_norm_legit.no_stats,
        aten._native_batch_norm_legit_functional.default,
    }
)


@dataclass(frozen=True)
class FoldBatchNorm(Pass):
    """Replace every batch norm by what it computes in eval mode.

    With scale = weight / sqrt(variance + epsilon) and shift = bias - mean * scale, computed in float64:

    * ``batch_norm(conv(x, w, b))`` becomes ``conv(x, w * scale, b * scale + shift)``, likewise for transposed
      convolutions and for linear layers with two-dimensional results. Only when the batch norm alone reads the
      layer, and the layer alone reads its weight. The weight keeps its name, the bias is ``<layer>.bias``. Where an
      adapter is folded into the weight when it is loaded, the weight stays as it is, and becomes
      ``fold(w) * <batch norm>.scale``.
    * every other ``batch_norm(x)`` becomes ``x * scale + shift`` with the parameters ``<batch norm>.scale`` and
      ``<batch norm>.shift``.

    Afterwards no batch norm and no statistics are left, so exchanging parameters exchanges everything trained.
    """

    name: ClassVar[str] = "fold-batch-norm"
    rewrites: ClassVar[frozenset[Aspect]] = frozenset({Aspect.STRUCTURE, Aspect.WEIGHTS})

    def requires(self, graph_module: fx.GraphModule) -> None:
        """Raise PassError when a batch norm uses the statistics of its batch, or computed ones."""
        problems = [problem for node in graph_module.graph.nodes if (problem := _problem(node))]
        if problems:
            raise PassError(several("These batch norms cannot be folded", problems))

    def call(self, graph_module: fx.GraphModule) -> PassResult:
        """Fold every batch norm, in graph order."""
        norms = [node for node in graph_module.graph.nodes if node.target in _BATCH_NORMS]
        for node in norms:
            _fold(graph_module, node)
        if norms:
            graph_module.graph.eliminate_dead_code()
            remove_unused_tensors(graph_module)
        return PassResult(graph_module, bool(norms))


def _problem(node: fx.Node) -> str | None:
    where = f"{node.name} in {module_path(node) or 'the model itself'}"
    is_training = node.target in _BATCH_NORMS and has_argument(node, "training") and argument(node, "training")
    if is_training or node.target in _ALWAYS_TRAINING:
        return f"{where} uses the statistics of its batch; call eval() and let it track running statistics"
    if node.target not in _BATCH_NORMS:
        return None
    computed = [arg.name for arg in node.args[1:5] if isinstance(arg, fx.Node) and arg.op != "get_attr"]
    return f"{where} has computed parameters: {', '.join(computed)}" if computed else None


def _fold(graph_module: fx.GraphModule, norm: fx.Node) -> None:
    layer = norm.args[0]
    assert isinstance(layer, fx.Node)
    scale, shift = _scale_and_shift(graph_module, norm)
    if _can_take(graph_module, layer, norm):
        _scale_weight(graph_module, layer, norm, scale)
        _scale_bias(graph_module, layer, scale, shift)
        replacement = layer
    else:
        replacement = _multiply_and_add(graph_module, norm, scale, shift)
    for result in _results(norm):
        result.replace_all_uses_with(replacement)
    _erase(norm)


def _results(norm: fx.Node) -> Iterator[fx.Node]:
    if isinstance(norm.meta["val"], torch.Tensor):
        yield norm
    else:
        yield from [user for user in norm.users if user.target is getitem and user.args[1] == 0]


def _erase(norm: fx.Node) -> None:
    # at once, so that it no longer counts as a reader of the layer when a second batch norm follows
    for unread in [*norm.users, norm]:
        norm.graph.erase_node(unread)


def _scale_and_shift(graph_module: fx.GraphModule, norm: fx.Node) -> tuple[torch.Tensor, torch.Tensor]:
    tensors = [_as_float64(graph_module, arg) for arg in norm.args[1:5]]
    mean, variance = tensors[2], tensors[3]
    assert mean is not None
    assert variance is not None
    weight = torch.ones_like(mean) if tensors[0] is None else tensors[0]
    bias = torch.zeros_like(mean) if tensors[1] is None else tensors[1]
    scale = weight / torch.sqrt(variance + argument(norm, "eps"))
    return scale, bias - mean * scale


def _as_float64(graph_module: fx.GraphModule, argument: object) -> torch.Tensor | None:
    if not isinstance(argument, fx.Node):
        return None
    return stored_tensor(graph_module, str(argument.target)).detach().double()


def _can_take(graph_module: fx.GraphModule, layer: fx.Node, norm: fx.Node) -> bool:
    if layer.target not in _LAYERS or (layer.target is aten.linear.default and tensor_of(layer).ndim != 2):
        return False
    weight, bias = argument(layer, "weight"), argument(layer, "bias")
    is_weight_stored = weight.op == "get_attr" or weight in fold_nodes(graph_module)
    are_stored = is_weight_stored and (bias is None or bias.op == "get_attr")
    return are_stored and set(layer.users) == {norm} and set(weight.users) == {layer}


def _scale_weight(graph_module: fx.GraphModule, layer: fx.Node, norm: fx.Node, scale: torch.Tensor) -> None:
    weight_node = argument(layer, "weight")
    like = tensor_of(weight_node)
    if weight_node.op == "get_attr":
        weight = stored_tensor(graph_module, str(weight_node.target))
        _store_parameter(graph_module, str(weight_node.target), _scaled_weight(layer, weight.double(), scale), weight)
        return
    outer = like.shape[:2] if _is_transposed(layer) else like.shape[:1]
    factors = _scaled_weight(layer, scale.new_ones(*outer, *[1] * (like.ndim - len(outer))), scale)
    name = free_name(graph_module, _beside(_statistics(norm), "scale"))
    store_tensor(graph_module, name, nn.Parameter(factors.to(like.dtype), requires_grad=False))
    factor = insert_get_attr(graph_module, name, before=layer)
    scaled = insert_call(graph_module.graph, aten.mul.Tensor, (weight_node, factor), before=layer, like=layer)
    layer.replace_input_with(weight_node, scaled)


def _scale_bias(graph_module: fx.GraphModule, layer: fx.Node, scale: torch.Tensor, shift: torch.Tensor) -> None:
    weight, bias_node = _stored_weight(layer), argument(layer, "bias")
    bias = _as_float64(graph_module, bias_node)
    new_bias = shift if bias is None else bias * scale + shift
    bias_name = _bias_name(graph_module, str(weight.target), bias_node, layer)
    _store_parameter(graph_module, bias_name, new_bias, stored_tensor(graph_module, str(weight.target)))
    _set_bias(layer, insert_get_attr(graph_module, bias_name, before=layer))


def _stored_weight(layer: fx.Node) -> fx.Node:
    """Return the stored weight of a layer, behind what is computed from it."""
    node: fx.Node = argument(layer, "weight")
    while node.op != "get_attr":
        node = node.all_input_nodes[0]
    return node


def _statistics(norm: fx.Node) -> str:
    mean = norm.args[3]
    assert isinstance(mean, fx.Node)
    return str(mean.target)


def _beside(name: str, leaf: str) -> str:
    return ".".join([*name.split(".")[:-1], leaf])


def _scaled_weight(layer: fx.Node, weight: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    if not _is_transposed(layer):
        return weight * scale.reshape(-1, *[1] * (weight.ndim - 1))
    groups = argument(layer, "groups")
    grouped = weight.reshape(groups, -1, *weight.shape[1:])  # groups, inputs of a group, outputs of a group, kernel
    per_group = scale.reshape(groups, 1, -1, *[1] * (weight.ndim - 2))
    return (grouped * per_group).reshape(weight.shape)


def _is_transposed(layer: fx.Node) -> bool:
    return layer.target in _TRANSPOSED or (has_argument(layer, "transposed") and argument(layer, "transposed"))


def _bias_name(graph_module: fx.GraphModule, weight_name: str, bias: fx.Node | None, layer: fx.Node) -> str:
    if bias is not None and set(bias.users) == {layer}:
        return str(bias.target)
    return free_name(graph_module, _beside(weight_name, "bias"))


def _set_bias(layer: fx.Node, bias: fx.Node) -> None:
    layer.args = (*layer.args[:2], bias, *layer.args[3:])
    layer.kwargs = {key: value for key, value in layer.kwargs.items() if key != "bias"}


def _store_parameter(graph_module: fx.GraphModule, name: str, value: torch.Tensor, like: torch.Tensor) -> None:
    store_tensor(graph_module, name, nn.Parameter(value.detach().to(like.dtype), requires_grad=like.requires_grad))


def _multiply_and_add(graph_module: fx.GraphModule, norm: fx.Node, scale: torch.Tensor, shift: torch.Tensor) -> fx.Node:
    data = norm.args[0]
    assert isinstance(data, fx.Node)
    like = tensor_of(data)
    factors = []
    for word, value in (("scale", scale), ("shift", shift)):
        name = free_name(graph_module, _beside(_statistics(norm), word))
        parameter = nn.Parameter(value.reshape(-1, *[1] * (like.ndim - 2)).to(like.dtype), requires_grad=True)
        store_tensor(graph_module, name, parameter)
        factors.append(insert_get_attr(graph_module, name, before=norm))
    product = insert_call(graph_module.graph, aten.mul.Tensor, (data, factors[0]), before=norm, like=norm)
    return insert_call(graph_module.graph, aten.add.Tensor, (product, factors[1]), before=norm, like=norm)
