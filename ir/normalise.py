"""What a captured graph is cleaned of, so that no later stage meets it.

Rules, in this order:

* checks of tensor metadata (``_assert_tensor_metadata``) are removed: all shapes are known here;
* tied tensors are read under one name, by one node;
* ``view`` and ``_unsafe_view`` become ``reshape``, which does not depend on strides;
* nodes whose values depend on no input and no floating-point parameter (masks, position indices; ``new_zeros`` of
  an input only takes its type) are computed now and stored as buffers ``<module path>.constant_<op>``. What
  depends on a parameter stays an operation, so that exchanged weights keep their effect;
* operations that return their input unchanged (``alias``, ``detach``, ``clone`` of the same layout, slices of
  everything, padding by nothing) are removed;
* unused nodes and tensors are removed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import fx, nn

from cospipe.ir.graph import argument, free_name, insert_get_attr, module_path, store_tensor, stored_tensor, tensor_of

aten = torch.ops.aten

_METADATA_CHECKS = frozenset({aten._assert_tensor_metadata.default})
_OVERWRITE_FIRST_ARGUMENT = frozenset(
    {
        aten.fill.Scalar,
        aten.fill.Tensor,
        aten.full_like.default,
        aten.new_full.default,
        aten.new_ones.default,
        aten.new_zeros.default,
        aten.ones_like.default,
        aten.zero.default,
        aten.zeros_like.default,
    }
)
_IDENTITY_WHEN_UNCHANGED = frozenset(
    {
        aten._to_copy.default,
        aten.alias.default,
        aten.clone.default,
        aten.contiguous.default,
        aten.detach.default,
        aten.expand.default,
        aten.lift_fresh_copy.default,
        aten.slice.Tensor,
        aten.reshape.default,
    }
)


def normalise(graph_module: fx.GraphModule) -> None:
    """Apply the rules of this module to a captured graph, in place."""
    _remove_metadata_checks(graph_module.graph)
    _read_each_tensor_once(graph_module)
    _use_reshape(graph_module.graph)
    _fold_constants(graph_module)
    _remove_identities(graph_module.graph)
    graph_module.graph.eliminate_dead_code()
    graph_module.recompile()


def is_random(node: fx.Node) -> bool:
    """Say whether a node draws random numbers; attention without dropout does not."""
    if not isinstance(node.target, torch._ops.OpOverload):
        return False
    if node.target is aten.scaled_dot_product_attention.default:
        return bool(argument(node, "dropout_p") > 0)
    return torch.Tag.nondeterministic_seeded in node.target.tags


def _remove_metadata_checks(graph: fx.Graph) -> None:
    for node in list(graph.nodes):
        if node.target in _METADATA_CHECKS:
            graph.erase_node(node)


def _read_each_tensor_once(graph_module: fx.GraphModule) -> None:
    first_reader: dict[int, fx.Node] = {}
    for node in list(graph_module.graph.nodes):
        if node.op != "get_attr":
            continue
        reader = first_reader.setdefault(id(stored_tensor(graph_module, str(node.target))), node)
        if reader is not node:
            node.replace_all_uses_with(reader)
            graph_module.graph.erase_node(node)


def _use_reshape(graph: fx.Graph) -> None:
    for node in graph.nodes:
        if node.target in (aten._unsafe_view.default, aten.view.default):
            node.target = aten.reshape.default


def _fold_constants(graph_module: fx.GraphModule) -> None:
    values = _constant_values(graph_module)
    for node, value in values.items():
        is_read = any(user not in values for user in node.users)
        if node.op != "get_attr" and is_read and isinstance(value, torch.Tensor):
            _replace_by_buffer(graph_module, node, value)


def _constant_values(graph_module: fx.GraphModule) -> dict[fx.Node, Any]:
    values: dict[fx.Node, Any] = {}
    for node in graph_module.graph.nodes:
        if node.op == "get_attr":
            tensor = stored_tensor(graph_module, str(node.target))
            if not (isinstance(tensor, nn.Parameter) and tensor.is_floating_point()):
                values[node] = tensor.detach()
        elif node.op == "call_function" and not is_random(node) and _values_read(node) <= values.keys():
            values[node] = _compute(node, values)
    return values


def _values_read(node: fx.Node) -> set[fx.Node]:
    read = set(node.all_input_nodes)
    return read - {node.args[0]} if node.target in _OVERWRITE_FIRST_ARGUMENT else read


def _compute(node: fx.Node, values: dict[fx.Node, Any]) -> Any:
    args, kwargs = fx.node.map_arg((node.args, dict(node.kwargs)), lambda read: _value_or_zeros(read, values))
    assert callable(node.target)
    with torch.no_grad():
        return node.target(*args, **kwargs)


def _value_or_zeros(node: fx.Node, values: dict[fx.Node, Any]) -> Any:
    if node in values:
        return values[node]
    like = tensor_of(node)  # only its shape and type matter to the operation
    return torch.zeros(like.shape, dtype=like.dtype, device=like.device)


def _replace_by_buffer(graph_module: fx.GraphModule, node: fx.Node, value: torch.Tensor) -> None:
    name = free_name(graph_module, ".".join(filter(None, [module_path(node), f"constant_{_op_name(node)}"])))
    store_tensor(graph_module, name, value.clone())
    buffer = insert_get_attr(graph_module, name, before=node)
    if "nn_module_stack" in node.meta:
        buffer.meta["nn_module_stack"] = node.meta["nn_module_stack"]
    node.replace_all_uses_with(buffer)


def _op_name(node: fx.Node) -> str:
    return str(getattr(node.target, "_opname", getattr(node.target, "__name__", node.name)))


def _remove_identities(graph: fx.Graph) -> None:
    for node in list(_identities(graph)):
        node.replace_all_uses_with(node.all_input_nodes[0])
        graph.erase_node(node)


def _identities(graph: fx.Graph) -> Iterator[fx.Node]:
    for node in graph.nodes:
        pads_nothing = node.target is aten.pad.default and not any(node.args[1])
        if (pads_nothing or node.target in _IDENTITY_WHEN_UNCHANGED) and _is_unchanged(node):
            yield node


def _is_unchanged(node: fx.Node) -> bool:
    before, after = node.all_input_nodes[0].meta["val"], node.meta["val"]
    layouts = [(value.shape, value.stride(), value.dtype, value.device) for value in (before, after)]
    return bool(layouts[0] == layouts[1])
