"""A model with its adapters merged, for whoever wants plain weights and must not change the model itself."""

from __future__ import annotations

import copy

import torch
from torch import nn

from cospipe.ir.adaptable_weights import restore_parameters
from cospipe.ir.errors import AdapterError
from cospipe.ir.spectral_delta import SpectralDelta


def merged_copy(model: nn.Module) -> nn.Module:
    """Return a model without adapters that computes the same; the model itself where it has none.

    Raises
    ------
    AdapterError
        When a merged weight would not be finite.
    """
    if not any(isinstance(module, SpectralDelta) for module in model.modules()):
        return model
    copied = copy.deepcopy(model)
    merged: dict[int, nn.Parameter] = {}  # by the stored weight, so that modules that share one still do
    for module in list(copied.modules()):
        chains = getattr(module, "parametrizations", {})
        adapted = [tensor for tensor, chain in chains.items() if any(isinstance(step, SpectralDelta) for step in chain)]
        stored = {tensor: chains[tensor].original for tensor in adapted}
        for tensor, original in stored.items():
            if id(original) not in merged:
                merged[id(original)] = _merged(module, tensor, original.requires_grad)
        if adapted:
            restore_parameters(module, adapted, ())
        for tensor, original in stored.items():
            setattr(module, tensor, merged[id(original)])
    return copied


def _merged(module: nn.Module, tensor: str, requires_grad: bool) -> nn.Parameter:
    value = getattr(module, tensor).detach()
    if not bool(torch.isfinite(value).all()):
        raise AdapterError(f"Merging gives infinite or undefined numbers in {tensor} of {type(module).__name__}.")
    return nn.Parameter(value, requires_grad=requires_grad)
