"""A model with its adapters merged, for whoever wants plain weights and must not change the model itself."""

from __future__ import annotations

import copy

from torch import nn

from cospipe.ir.adaptable_weights import restore_parameters
from cospipe.ir.spectral_delta import SpectralDelta


def merged_copy(model: nn.Module) -> nn.Module:
    """Return a model without adapters that computes the same; the model itself where it has none."""
    if not any(isinstance(module, SpectralDelta) for module in model.modules()):
        return model
    copied = copy.deepcopy(model)
    for module in list(copied.modules()):
        chains = getattr(module, "parametrizations", {})
        adapted = [tensor for tensor, chain in chains.items() if any(isinstance(step, SpectralDelta) for step in chain)]
        merged = {tensor: getattr(module, tensor).detach() for tensor in adapted}
        if adapted:
            restore_parameters(module, adapted, ())
        for tensor, value in merged.items():
            setattr(module, tensor, nn.Parameter(value, requires_grad=getattr(module, tensor).requires_grad))
    return copied
