"""Between the deltas of an eager model and an adapter file: what is stored of them, and whether it fits a base."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict

import numpy as np
import torch

from cospipe.ir.adapter_file import AdaptedWeight, AdapterHeader, StoredAdapter, fingerprint
from cospipe.ir.coefficient_places import matrix_shape
from cospipe.ir.spectral_config import SpectralConfig
from cospipe.ir.spectral_delta import SpectralDelta
from cospipe.ir.tensor_file import Array


def new_delta(base: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor, alpha: float) -> SpectralDelta:
    """Return a delta for a weight, where the weight is; its coefficients are FP32, or FP64 like the weight."""
    dtype = torch.float64 if base.dtype == torch.float64 else torch.float32
    return SpectralDelta(base.shape, rows.to(base.device), columns.to(base.device), alpha, dtype)


def stored_adapter(
    deltas: Mapping[str, SpectralDelta],
    bases: Mapping[str, torch.Tensor],
    trained: Mapping[str, torch.Tensor],
    config: SpectralConfig,
    model: str,
    labels: Sequence[str],
) -> StoredAdapter:
    """Return what a file holds of an adapter.

    Parameters
    ----------
    deltas, bases : mapping of str to SpectralDelta and to Tensor
        The adapter on each weight, and the base's values of the weight.
    trained : mapping of str to Tensor
        The parameters trained whole.
    config : SpectralConfig
        The options it was made with.
    model : str
        Name of the base for people.
    labels : sequence of str
        What the model's outputs mean.
    """
    header = AdapterHeader(
        base=model,
        config=asdict(config),
        labels=tuple(labels),
        weights={weight: _description(delta, bases[weight]) for weight, delta in deltas.items()},
        trained={key: tuple(value.shape) for key, value in trained.items()},
    )
    return StoredAdapter(
        header,
        {weight: _array(delta.coefficients) for weight, delta in deltas.items()},
        {weight: _flat_places(delta) for weight, delta in deltas.items()},
        {key: _array(value) for key, value in trained.items()},
    )


def loaded_delta(stored: StoredAdapter, weight: str, base: torch.Tensor) -> SpectralDelta:
    """Return the delta that a file holds for a weight."""
    described = stored.header.weights[weight]
    rows, columns = np.divmod(stored.places[weight].astype(np.int64), matrix_shape(described.shape)[1])
    delta = new_delta(base, torch.from_numpy(rows), torch.from_numpy(columns), described.alpha)
    with torch.no_grad():
        delta.coefficients.copy_(torch.from_numpy(np.array(stored.coefficients[weight])))
    return delta


def misfits(
    stored: StoredAdapter, bases: Mapping[str, torch.Tensor], parameters: Mapping[str, torch.Tensor]
) -> list[str]:
    """Return why an adapter does not fit a model; nothing when it does.

    Parameters
    ----------
    stored : StoredAdapter
        The adapter.
    bases : mapping of str to Tensor
        The base's values of every weight that can be adapted.
    parameters : mapping of str to Tensor
        All parameters of the base.
    """
    problems = []
    for weight, described in stored.header.weights.items():
        base = bases.get(weight)
        if base is None:
            problems.append(f"there is no weight {weight}")
        elif tuple(base.shape) != described.shape:
            problems.append(f"{weight} is {tuple(base.shape)}, the adapter's {described.shape}")
        elif fingerprint(_array(base)) != described.fingerprint:
            problems.append(f"{weight} has other values than the one the adapter was trained on")
    for key, shape in stored.header.trained.items():
        if key not in parameters:
            problems.append(f"there is no parameter {key}")
        elif tuple(parameters[key].shape) != shape:
            problems.append(f"{key} is {tuple(parameters[key].shape)}, the adapter's {shape}")
    return problems


def _description(delta: SpectralDelta, base: torch.Tensor) -> AdaptedWeight:
    count = len(delta.coefficients)
    return AdaptedWeight(shape=delta.shape, n=count, alpha=delta.alpha, fingerprint=fingerprint(_array(base)))


def _array(tensor: torch.Tensor) -> Array:
    return np.array(tensor.detach().float().cpu().numpy(), order="C")


def _flat_places(delta: SpectralDelta) -> Array:
    flat = delta.rows.long() * matrix_shape(delta.shape)[1] + delta.columns.long()
    return np.asarray(flat.cpu().numpy())
