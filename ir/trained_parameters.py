"""Parameters that adapters train whole, a new last layer say: the base's values, and those of each adapter."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import nn

from cospipe.ir.adaptable_weights import base_parameters


class TrainedParameters:
    """Puts the values of whichever adapters are at work into the model.

    Parameters
    ----------
    model : nn.Module
        Holds the values of the adapters at work; those of the others, and the base's, are kept here.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._base: dict[str, torch.Tensor] = {}
        self._own: dict[str, dict[str, torch.Tensor]] = {}

    def start(self, adapter: str, keys: Iterable[str]) -> None:
        """Let an adapter train some parameters, from the base's values."""
        keys = list(keys)
        self._know(keys)
        self._own[adapter] = {key: self._base[key].clone() for key in keys}

    def put(self, adapter: str, values: Mapping[str, torch.Tensor]) -> None:
        """Give an adapter its values."""
        self._know(values)
        parameters = base_parameters(self._model)
        self._own[adapter] = {key: value.to(parameters[key]) for key, value in values.items()}

    def keep(self, adapter: str) -> None:
        """Take over what training made of the parameters of the adapter that was at work alone."""
        parameters = base_parameters(self._model)
        self._own[adapter] = {key: parameters[key].detach().clone() for key in self._own[adapter]}

    def values(self, adapter: str) -> dict[str, torch.Tensor]:
        """Return the values of an adapter that were kept."""
        return dict(self._own[adapter])

    def parameters(self, adapter: str) -> list[nn.Parameter]:
        """Return the model's parameters that an adapter trains whole."""
        parameters = base_parameters(self._model)
        return [parameters[key] for key in self._own[adapter]]

    def base(self, key: str) -> torch.Tensor | None:
        """Return the base's value of a parameter that an adapter trains whole."""
        return self._base.get(key)

    def fill(self, strengths: Mapping[str, float]) -> None:
        """Give the parameters the base's values, changed by each adapter at work times its strength."""
        parameters = base_parameters(self._model)
        with torch.no_grad():
            for key, base in self._base.items():
                active = [(s, self._own[name][key]) for name, s in strengths.items() if key in self._own[name]]
                parameters[key].copy_(_blended(base.to(parameters[key]), active))

    def _know(self, keys: Iterable[str]) -> None:
        parameters = base_parameters(self._model)
        self._base |= {key: parameters[key].detach().clone() for key in keys if key not in self._base}


def _blended(base: torch.Tensor, active: list[tuple[float, torch.Tensor]]) -> torch.Tensor:
    if not active:
        return base
    if len(active) == 1 and active[0][0] == 1:
        return active[0][1]  # no rounding: what was trained comes back bit by bit
    return base + sum(strength * (value.to(base) - base) for strength, value in active)
