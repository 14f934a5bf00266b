"""Small helpers over ``fx`` graphs: the tensors behind ``get_attr`` nodes, and where a node comes from."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from operator import attrgetter
from typing import Any

import torch
from torch import fx, nn
from torch._guards import detect_fake_mode


def module_path(node: fx.Node) -> str:
    """Return the module a node comes from, ``features.1.attn``; the empty string is the model itself."""
    if node.op in ("get_attr", "call_module"):
        return str(node.target).rpartition(".")[0]
    stack = node.meta.get("nn_module_stack") or {}
    paths = [entry[0] for entry in stack.values()]
    return str(paths[-1]) if paths else ""


def tensor_of(node: fx.Node) -> torch.Tensor:
    """Return the fake tensor that describes the shape and type of a node's result.

    Raises
    ------
    TypeError
        When the node has no single tensor as its result.
    """
    value = node.meta.get("val")
    if not isinstance(value, torch.Tensor):
        raise TypeError(f"node {node.name!r} does not have one tensor as its result")
    return value


def argument(node: fx.Node, name: str) -> Any:
    """Return the argument of an ATen call by the name it has in the operator's schema, or its default.

    Raises
    ------
    KeyError
        When the operator has no argument of that name.
    """
    target = node.target
    assert isinstance(target, torch._ops.OpOverload)
    for position, described in enumerate(target._schema.arguments):
        if described.name == name:
            given = node.args[position] if position < len(node.args) else node.kwargs.get(name, described.default_value)
            return given
    raise KeyError(f"{target} has no argument {name!r}")


def has_argument(node: fx.Node, name: str) -> bool:
    """Say whether the operator a node calls has an argument of that name."""
    schema = getattr(node.target, "_schema", None)
    return schema is not None and any(described.name == name for described in schema.arguments)


def stored_tensor(graph_module: fx.GraphModule, name: str) -> torch.Tensor:
    """Return the parameter or buffer of a fully qualified name."""
    value = attrgetter(name)(graph_module)
    assert isinstance(value, torch.Tensor)
    return value


def store_tensor(graph_module: fx.GraphModule, name: str, tensor: torch.Tensor) -> None:
    """Store a parameter (when it is an ``nn.Parameter``) or a buffer under a fully qualified name.

    What had that name before is replaced, never written to: the captured graph shares its tensors with the
    user's model.
    """
    path, _, leaf = name.rpartition(".")
    owner = _submodule(graph_module, path)
    if hasattr(owner, leaf):
        delattr(owner, leaf)
    if isinstance(tensor, nn.Parameter):
        owner.register_parameter(leaf, tensor)
    else:
        owner.register_buffer(leaf, tensor)


def _submodule(root: nn.Module, path: str) -> nn.Module:
    module = root
    for part in filter(None, path.split(".")):
        if not hasattr(module, part):
            module.add_module(part, nn.Module())
        module = getattr(module, part)
    return module


def free_name(graph_module: fx.GraphModule, name: str) -> str:
    """Return a fully qualified name nothing has yet: the name itself, or with a number behind it."""
    taken = {key for key, _ in graph_module.named_parameters(remove_duplicate=False)}
    taken |= {key for key, _ in graph_module.named_buffers(remove_duplicate=False)}
    taken |= {key for key, _ in graph_module.named_modules(remove_duplicate=False)}
    candidate, number = name, 1
    while candidate in taken:
        candidate, number = f"{name}_{number}", number + 1
    return candidate


def insert_get_attr(graph_module: fx.GraphModule, name: str, before: fx.Node) -> fx.Node:
    """Insert a ``get_attr`` node for a stored tensor, with its fake tensor in ``meta["val"]``."""
    graph = graph_module.graph
    with graph.inserting_before(before):
        node = graph.get_attr(name)
    node.meta["val"] = fake_tensor(graph, stored_tensor(graph_module, name))
    return node


def insert_call(
    graph: fx.Graph, target: Callable[..., Any], args: tuple[Any, ...], before: fx.Node, like: fx.Node
) -> fx.Node:
    """Insert a ``call_function`` node with ``meta["val"]``; it belongs to the module of the node ``like``."""
    with graph.inserting_before(before):
        node = graph.call_function(target, args)
    fakes = fx.node.map_arg(args, tensor_of)
    with detect_fake_mode(list(fakes)) or nullcontext():
        node.meta["val"] = target(*fakes)
    for key in ("nn_module_stack", "stack_trace"):
        if key in like.meta:
            node.meta[key] = like.meta[key]
    return node


def fake_tensor(graph: fx.Graph, tensor: torch.Tensor) -> torch.Tensor:
    """Return a fake tensor of the same shape and type, in the graph's own fake mode."""
    mode = detect_fake_mode([node.meta["val"] for node in graph.nodes if "val" in node.meta])
    if mode is None:
        return tensor.detach().to("meta")
    with mode:
        return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=tensor.device)


def remove_unused_tensors(graph_module: fx.GraphModule) -> None:
    """Delete every parameter and buffer no node reads; submodules that a node calls keep theirs."""
    read = {str(node.target) for node in graph_module.graph.nodes if node.op == "get_attr"}
    called = tuple(f"{node.target}." for node in graph_module.graph.nodes if node.op == "call_module")
    names = [key for key, _ in graph_module.named_parameters(remove_duplicate=False)]
    names += [key for key, _ in graph_module.named_buffers(remove_duplicate=False)]
    for name in names:
        if name not in read and not name.startswith(called):
            path, _, leaf = name.rpartition(".")
            delattr(graph_module.get_submodule(path), leaf)
    _remove_empty_modules(graph_module)


def _remove_empty_modules(module: nn.Module) -> None:
    for name, child in list(module.named_children()):
        _remove_empty_modules(child)
        if type(child) is nn.Module and not child._parameters and not child._buffers and not child._modules:
            delattr(module, name)
