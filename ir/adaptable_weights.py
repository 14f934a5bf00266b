"""Which weights of an eager model can get adapters, and under which names the model's parameters are known."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import nn
from torch.nn.utils import parametrize

from cospipe.ir.spectral_delta import SpectralDelta

Calibration = Callable[[nn.Module], None]
"""Runs a model on a few batches and calls ``backward()`` on the losses."""

_ADAPTED_MODULES = (nn.Linear, nn.Embedding, nn.modules.conv._ConvNd)
_PROJECTIONS = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")


def adaptable_weights(model: nn.Module) -> dict[str, list[tuple[nn.Module, str]]]:
    """Return where each weight that can be adapted is read: one name, and a place for each module that shares it."""
    names: dict[int, str] = {}
    found: dict[str, list[tuple[nn.Module, str]]] = {}
    for path, module in model.named_modules():
        for tensor in _weight_names(module):
            parameter = getattr(module, tensor)
            if not isinstance(parameter, nn.Parameter) or parameter.ndim < 2 or not parameter.is_floating_point():
                continue
            name = names.setdefault(id(parameter), f"{path}.{tensor}" if path else tensor)
            found.setdefault(name, []).append((module, tensor))
    return found


def _weight_names(module: nn.Module) -> tuple[str, ...]:
    if isinstance(module, nn.MultiheadAttention):
        return tuple(name for name in _PROJECTIONS if getattr(module, name) is not None)
    is_conv1d = type(module).__name__ == "Conv1D" and hasattr(module, "nf")
    return ("weight",) if isinstance(module, _ADAPTED_MODULES) or is_conv1d else ()


def base_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters of a model without those of adapters, by the names they have when there are none."""
    modules = model.named_modules(remove_duplicate=False)
    deltas = {path for path, module in modules if isinstance(module, SpectralDelta)}
    adapted = {path.rpartition(".")[0] for path in deltas}
    found = {}
    for name, parameter in model.named_parameters():
        owner = name.rpartition(".")[0]
        if owner in adapted:
            found["".join(owner.rpartition("parametrizations.")[::2])] = parameter
        elif owner not in deltas:
            found[name] = parameter
    return found


def restore_parameters(module: nn.Module, tensors: Iterable[str], order: Iterable[str]) -> None:
    """Make parametrized tensors of a module plain parameters again, in the order the module had them.

    ``parametrize.remove_parametrizations`` would take the tensor from the module's class as well, which deep copies of
    the module share.
    """
    originals = {tensor: module.parametrizations[tensor].original for tensor in tensors}  # type: ignore[union-attr, index]
    for tensor in originals:
        del module.parametrizations[tensor]  # type: ignore[operator, union-attr]
    if parametrize.is_parametrized(module):
        for tensor in originals:
            delattr(type(module), tensor)
    else:
        del module.parametrizations
        module.__class__ = type(module).__bases__[0]
    for tensor, original in originals.items():
        module.register_parameter(tensor, original)
    for tensor in order:
        if tensor in module._parameters:
            module._parameters[tensor] = module._parameters.pop(tensor)


def run_calibration(model: nn.Module, parameters: Iterable[torch.Tensor], calibrate: Calibration) -> None:
    """Let some parameters collect gradients; flags of all, and gradients of the others, are as before."""
    before = [(parameter, parameter.requires_grad, parameter.grad) for parameter in model.parameters()]
    wanted = {id(parameter) for parameter in parameters}
    for parameter, _, _ in before:
        parameter.requires_grad_(id(parameter) in wanted)
        parameter.grad = None
    try:
        calibrate(model)
    finally:
        for parameter, flag, gradient in before:
            parameter.requires_grad_(flag)
            if id(parameter) not in wanted:
                parameter.grad = gradient
