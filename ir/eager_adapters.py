"""Spectral adapters on a model in eager PyTorch: training, several on one base, files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn.utils import parametrize

from cospipe.ir import adapted_linear
from cospipe.ir.adaptable_weights import (
    Calibration,
    adaptable_weights,
    base_parameters,
    restore_parameters,
    run_calibration,
)
from cospipe.ir.adapter_file import read_adapter, write_adapter
from cospipe.ir.coefficient_places import choose_places, coefficient_counts
from cospipe.ir.delta_storage import loaded_delta, misfits, new_delta, stored_adapter
from cospipe.ir.errors import AdapterError, UsageError, nearest, several
from cospipe.ir.spectral_config import SpectralConfig
from cospipe.ir.spectral_delta import SpectralDelta
from cospipe.ir.trained_parameters import TrainedParameters

_DEFAULT = "default"


def adapt(
    model: nn.Module,
    config: SpectralConfig | None = None,
    *,
    name: str = _DEFAULT,
    calibrate: Calibration | None = None,
) -> Adapters:
    """Put spectral adapters on a model, in place, and freeze everything else.

    Linear layers, convolutions of all kinds (transposed, grouped, depthwise), embeddings, the input projection of
    ``nn.MultiheadAttention`` and Hugging Face's ``Conv1D`` can be adapted. Weights that modules share get one adapter.

    Parameters
    ----------
    model : nn.Module
        The base; it computes what it did before until the coefficients are trained.
    config : SpectralConfig, optional
        How many coefficients, where, and on which weights.
    name : str
        What the adapter is called, when a base gets several.
    calibrate : callable, optional
        For selection by gradient: is given the model, and runs ``loss.backward()`` on a few batches. Without it the
        gradients that the weights have already are used.

    Returns
    -------
    Adapters
        Saves, loads, switches and merges. ``adapters.trainable_parameters()`` go to the optimizer.

    Raises
    ------
    UsageError
        When no weight matches, or a selection cannot be made.

    Examples
    --------
    >>> config = SpectralConfig(n=700, layers="*.query|*.value", also_train="classifier")
    >>> adapters = adapt(model, config)  # doctest: +SKIP
    >>> optimizer = torch.optim.AdamW(adapters.trainable_parameters(), lr=5e-3)  # doctest: +SKIP
    >>> adapters.save("pets.safetensors")  # doctest: +SKIP
    """
    adapters = Adapters(model)
    adapters.add(config or SpectralConfig(), name, calibrate=calibrate)
    return adapters


def load_adapter(model: nn.Module, path: str | Path, *, name: str = _DEFAULT) -> Adapters:
    """Put a saved adapter on the base it was trained on, in place; see :meth:`Adapters.load`."""
    adapters = Adapters(model)
    adapters.load(path, name)
    return adapters


class Adapters:
    """The adapters of one model.

    Parameters
    ----------
    model : nn.Module
        The base. It is changed in place: each adapted weight becomes a parametrization of its module.

    Raises
    ------
    UsageError
        When the model has adapters already.
    """

    def __init__(self, model: nn.Module) -> None:
        if any(isinstance(module, SpectralDelta) for module in model.modules()):
            raise UsageError(
                "The model has adapters already; add to them with add() or load(), or remove() them first."
            )
        self.model = model
        self._places = adaptable_weights(model)
        self._orders = {weight: [tuple(m._parameters) for m, _ in places] for weight, places in self._places.items()}
        self._deltas: dict[str, dict[str, SpectralDelta]] = {}
        self._configs: dict[str, SpectralConfig] = {}
        self._trained = TrainedParameters(model)
        self._unmerged: dict[str, torch.Tensor] | None = None
        self._flags = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
        self._strengths: dict[str, float] = {}
        self._in_training: str | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The adapters of this model, in the order they came."""
        return tuple(self._deltas)

    @property
    def active(self) -> dict[str, float]:
        """The adapters at work, with their strengths."""
        return dict(self._strengths)

    def trainable_parameters(self) -> list[nn.Parameter]:
        """Return what an optimizer trains: the active adapter's coefficients, and the parameters trained whole."""
        return [parameter for parameter in self.model.parameters() if parameter.requires_grad]

    def coefficient_count(self, name: str | None = None) -> int:
        """Return how many coefficients an adapter has; the active one by default."""
        return sum(len(delta.coefficients) for delta in self._deltas[self._named(name)].values())

    def deltas(self, name: str | None = None) -> dict[str, SpectralDelta]:
        """Return an adapter's deltas by weight name; those of the active one by default."""
        return dict(self._deltas[self._named(name)])

    def add(self, config: SpectralConfig, name: str = _DEFAULT, *, calibrate: Calibration | None = None) -> None:
        """Add a new adapter, whose coefficients are zero, and make it the active one; see :func:`adapt`."""
        self._check_new(name)
        shapes = {weight: tuple(self._base(weight).shape) for weight in self._places}
        counts = coefficient_counts(shapes, config)
        if not counts:
            raise UsageError(_nothing_to_adapt(config, list(shapes)))
        trained = [parameter for parameter in base_parameters(self.model) if config.trains_whole(parameter)]
        if config.also_train and not trained:
            raise UsageError(_nothing_to_train_whole(config, list(base_parameters(self.model))))
        gradients = self._gradients(counts, calibrate) if config.selection == "gradient" else {}
        chosen = {
            weight: choose_places(weight, self._base_values(weight), n, config, gradients.get(weight))
            for weight, n in counts.items()
        }
        self._trained.start(name, trained)
        deltas = {weight: new_delta(self._base(weight), *places, config.alpha) for weight, places in chosen.items()}
        self._install(name, deltas)
        self._configs[name] = config
        self.switch(name)

    def load(self, path: str | Path, name: str = _DEFAULT) -> None:
        """Add a saved adapter and make it the active one.

        Raises
        ------
        AdapterError
            When the file is damaged, or was trained on another base; everything that does not fit is listed.
        """
        self._check_new(name)
        stored = read_adapter(path)
        if problems := misfits(stored, self._bases(), base_parameters(self.model)):
            raise AdapterError(several(f"{path} was trained on another base and does not fit this model", problems))
        self._trained.put(name, {key: torch.from_numpy(np.array(value)) for key, value in stored.trained.items()})
        loaded = {weight: loaded_delta(stored, weight, self._base(weight)) for weight in stored.header.weights}
        self._install(name, loaded)
        self._configs[name] = SpectralConfig(**stored.header.config)  # type: ignore[arg-type]
        self.switch(name)

    def save(self, path: str | Path, name: str | None = None, *, base: str = "", labels: Sequence[str] = ()) -> None:
        """Write an adapter, the active one by default, as safetensors with a JSON header.

        Raises
        ------
        AdapterError
            When coefficients are not finite, or the file cannot be written.
        """
        name = self._named(name)
        self._keep_trained()
        trained, deltas = self._trained.values(name), self._deltas[name]
        model = base or type(self.model).__name__
        stored = stored_adapter(deltas, self._bases(), trained, self._configs[name], model, labels)
        write_adapter(path, stored)

    def switch(self, name: str | None) -> None:
        """Let one adapter work alone, and train; None is the base as it was."""
        self._set_strengths({} if name is None else {self._named(name): 1.0})
        if name is not None:
            self._in_training = name
            trained = [delta.coefficients for delta in self._deltas[name].values()]
            for parameter in trained + self._trained.parameters(name):
                parameter.requires_grad_(True)

    def blend(self, strengths: Mapping[str, float]) -> None:
        """Let several adapters work together, each times its strength; nothing is trained meanwhile."""
        self._set_strengths({self._named(name): float(strength) for name, strength in strengths.items()})

    def merge(self) -> None:
        """Write the active change into the weights, so that a forward pass costs nothing more.

        Raises
        ------
        UsageError
            When it is merged already.
        AdapterError
            When a merged weight would not be finite; then nothing is merged.
        """
        self._check_not_merged("merge")
        with torch.no_grad():
            merged = {weight: self._merged(weight) for weight in self._adapted()}
        wrong = [weight for weight, value in merged.items() if not bool(torch.isfinite(value).all())]
        if wrong:
            raise AdapterError(several("Merging gives infinite or undefined numbers in these weights", wrong))
        self._unmerged = {weight: self._base(weight).detach().clone() for weight in merged}
        self._write(merged)
        self._apply_strengths()

    def unmerge(self) -> None:
        """Take the change out again; the weights are, bit by bit, what they were.

        Raises
        ------
        UsageError
            When nothing is merged.
        """
        if self._unmerged is None:
            raise UsageError("Nothing is merged; call merge() first.")
        self._write(self._unmerged)
        self._unmerged = None
        self._apply_strengths()

    def remove(self) -> nn.Module:
        """Take all adapters off and return the model as a plain one; what is merged stays in the weights.

        Without :meth:`merge` before, the model is the base again, trained parameters included.
        """
        if self._unmerged is None:
            self.switch(None)
        for module, tensors, order in self._parametrized():
            restore_parameters(module, tensors, order)
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_(self._flags.get(name, parameter.requires_grad))
        self._deltas.clear()
        self._configs.clear()
        self._strengths.clear()
        self._trained = TrainedParameters(self.model)
        self._in_training = self._unmerged = None
        return self.model

    def _named(self, name: str | None) -> str:
        if name is None:
            if len(self._strengths) != 1:
                raise UsageError(f"Name the adapter: {', '.join(self._deltas) or 'there is none'}.")
            return next(iter(self._strengths))
        if name not in self._deltas:
            raise UsageError(f"There is no adapter {name!r}. Known: {', '.join(self._deltas) or 'none'}.")
        return name

    def _check_new(self, name: str) -> None:
        self._check_not_merged("add an adapter")
        if name in self._deltas:
            raise UsageError(f"The model has an adapter called {name!r} already; give the new one another name.")

    def _check_not_merged(self, what: str) -> None:
        if self._unmerged is not None:
            raise UsageError(f"The adapter is merged already; call unmerge() before you {what}.")

    def _adapted(self) -> list[str]:
        return list(dict.fromkeys(weight for deltas in self._deltas.values() for weight in deltas))

    def _base(self, weight: str) -> torch.Tensor:
        """Return the stored parameter of a weight, which is the base's unless it is merged."""
        module, tensor = self._places[weight][0]
        if parametrize.is_parametrized(module, tensor):
            original: torch.Tensor = module.parametrizations[tensor].original  # type: ignore[index, union-attr]
            return original
        plain: torch.Tensor = getattr(module, tensor)
        return plain

    def _base_values(self, weight: str) -> torch.Tensor:
        """Return what the base holds, whatever is merged or was trained."""
        trained = self._trained.base(weight)
        return trained if trained is not None else (self._unmerged or {}).get(weight, self._base(weight))

    def _bases(self) -> dict[str, torch.Tensor]:
        return {weight: self._base_values(weight) for weight in self._places}

    def _parametrized(self) -> list[tuple[nn.Module, list[str], tuple[str, ...]]]:
        """Return each module with adapters, the tensors that have them, and the order of its parameters."""
        found: dict[nn.Module, tuple[list[str], tuple[str, ...]]] = {}
        for weight in self._adapted():
            for (module, tensor), order in zip(self._places[weight], self._orders[weight], strict=True):
                found.setdefault(module, ([], order))[0].append(tensor)
        return [(module, tensors, order) for module, (tensors, order) in found.items()]

    def _merged(self, weight: str) -> torch.Tensor:
        module, tensor = self._places[weight][0]
        merged: torch.Tensor = getattr(module, tensor)
        return merged.detach()

    def _gradients(self, weights: Iterable[str], calibrate: Calibration | None) -> dict[str, torch.Tensor]:
        parameters = {weight: self._base(weight) for weight in weights}
        if calibrate is not None:
            run_calibration(self.model, parameters.values(), calibrate)
        gradients = {weight: parameter.grad for weight, parameter in parameters.items() if parameter.grad is not None}
        for parameter in parameters.values():
            parameter.grad = None
        return gradients

    def _install(self, name: str, deltas: dict[str, SpectralDelta]) -> None:
        self._deltas[name] = deltas
        for weight, delta in deltas.items():
            for module, tensor in self._places[weight]:
                parametrize.register_parametrization(module, tensor, delta, unsafe=True)
                adapted_linear.install(module)

    def _set_strengths(self, strengths: dict[str, float]) -> None:
        self._check_not_merged("switch")
        self._keep_trained()
        self._strengths, self._in_training = strengths, None
        self._apply_strengths()
        self._trained.fill(strengths)
        for parameter in self.model.parameters():
            parameter.requires_grad_(False)

    def _apply_strengths(self) -> None:
        is_merged = self._unmerged is not None
        for name, deltas in self._deltas.items():
            for delta in deltas.values():
                delta.strength = 0.0 if is_merged else self._strengths.get(name, 0.0)

    def _keep_trained(self) -> None:
        """Keep what training made of the active adapter's own parameters; blended ones are not anybody's own."""
        if self._in_training is not None:
            self._trained.keep(self._in_training)

    def _write(self, values: Mapping[str, torch.Tensor]) -> None:
        with torch.no_grad():
            for weight, value in values.items():
                self._base(weight).copy_(value)


def _nothing_to_train_whole(config: SpectralConfig, known: Sequence[str]) -> str:
    # the last ones: it is the last layer that people replace
    return f"No parameter matches {config.also_train!r} of also_train. {nearest(config.also_train, known[-20:])}"


def _nothing_to_adapt(config: SpectralConfig, known: Sequence[str]) -> str:
    whole = [name for name in known if config.count_for(name) and config.trains_whole(name)]
    if whole:
        return (
            f"also_train={config.also_train} trains every weight of {config.layers!r} whole, so none is left to adapt."
        )
    return f"No weight matches {config.layers!r}. Known: {', '.join(known) or 'none'}."
