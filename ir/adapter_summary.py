"""What people want to know of adapter files, alone or side by side. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cospipe.ir.adapter_file import StoredAdapter
from cospipe.ir.tensor_file import Array, read_entries

_Numbers = npt.NDArray[np.float64]


def adapter_summary(path: Path, adapter: StoredAdapter) -> dict[str, Any]:
    """Return what an adapter is made of, ready for JSON.

    Parameters
    ----------
    path : Path
        The file it was read from.
    adapter : StoredAdapter
        What was read.

    Returns
    -------
    dict
        Header values; for each weight ``change_norm``, the Frobenius norm alpha * ||c|| of its change;
        ``bytes_per_coefficient`` counts everything but the parameters trained whole, ``header_bytes`` included.
    """
    entries, file_bytes = read_entries(path), path.stat().st_size
    trained_bytes = sum(entry.size_bytes for name, entry in entries.items() if name.startswith("trained."))
    count = adapter.coefficient_count
    return {
        "file": str(path),
        "base": adapter.header.base,
        "config": adapter.header.config,
        "labels": list(adapter.header.labels),
        "coefficients": count,
        "trained_parameters": sum(array.size for array in adapter.trained.values()),
        "weights": [_weight(adapter, name) for name in adapter.header.weights],
        "trained": {name: list(shape) for name, shape in adapter.header.trained.items()},
        "file_bytes": file_bytes,
        "header_bytes": min((entry.offset_bytes for entry in entries.values()), default=file_bytes),
        "bytes_per_coefficient": round((file_bytes - trained_bytes) / count, 3) if count else None,
    }


def _weight(adapter: StoredAdapter, name: str) -> dict[str, Any]:
    weight = adapter.header.weights[name]
    return {
        "name": name,
        "shape": list(weight.shape),
        "n": weight.n,
        "alpha": weight.alpha,
        "change_norm": float(np.linalg.norm(_spectrum(adapter, name)[1])),
        "fingerprint": weight.fingerprint,
    }


def adapter_difference(first: StoredAdapter, second: StoredAdapter) -> dict[str, Any]:
    """Return in what two adapters differ, ready for JSON.

    The transform is orthonormal, so the distance of two changes is that of their spectra: no change is computed.

    Returns
    -------
    dict
        ``config`` and ``trained`` hold what differs only; ``same_base`` is None when no weight is in both, else
        whether all of these had the same values. For each weight in both: ``common_places``, ``distance``
        ||dW_1 - dW_2||, ``relative_distance`` (to ||dW_1||, None when that is zero), ``cosine`` (None when a change is
        zero). ``whole`` is the same over all weights; one that only one adapter changes has a change of zero in the
        other.
    """
    ours, theirs = first.header.weights, second.header.weights
    shared = [name for name in ours if name in theirs]
    comparable = [name for name in shared if ours[name].shape == theirs[name].shape]
    parts = {name: _compared(_spectrum(first, name), _spectrum(second, name)) for name in comparable}
    alone = [_squares(first, name, 1) for name in ours if name not in comparable]
    alone += [_squares(second, name, 2) for name in theirs if name not in comparable]
    return {
        "bases": [first.header.base, second.header.base],
        "same_base": all(ours[n].fingerprint == theirs[n].fingerprint for n in shared) if shared else None,
        "config": _differing(first.header.config, second.header.config),
        "labels": None
        if first.header.labels == second.header.labels
        else [list(first.header.labels), list(second.header.labels)],
        "only_in_first": [name for name in ours if name not in theirs],
        "only_in_second": [name for name in theirs if name not in ours],
        "other_shape": {n: [list(ours[n].shape), list(theirs[n].shape)] for n in shared if n not in comparable},
        "other_base": [n for n in shared if ours[n].fingerprint != theirs[n].fingerprint],
        "weights": [
            {"name": name, "n": [ours[name].n, theirs[name].n], "common_places": common, **_figures(squares)}
            for name, (common, squares) in parts.items()
        ],
        "whole": _figures(np.sum([*(squares for _, squares in parts.values()), *alone, np.zeros(4)], axis=0)),
        "trained": _trained_differences(first.trained, second.trained),
    }


def _spectrum(adapter: StoredAdapter, name: str) -> tuple[Array, _Numbers]:
    """Return the places of a weight's change in its spectrum, and the values there."""
    return adapter.places[name], adapter.coefficients[name].astype(np.float64) * adapter.header.weights[name].alpha


def _compared(first: tuple[Array, _Numbers], second: tuple[Array, _Numbers]) -> tuple[int, _Numbers]:
    """Return the places in common, and the squares of norms 1 and 2 and of the distance, and the product."""
    (places, values), (other_places, other_values) = first, second
    common, ours, theirs = np.intersect1d(places, other_places, assume_unique=True, return_indices=True)
    difference = ((values[ours] - other_values[theirs]) ** 2).sum()
    # summed place by place: the difference of nearly equal norms would be rounding only
    difference += (np.delete(values, ours) ** 2).sum() + (np.delete(other_values, theirs) ** 2).sum()
    product = values[ours] @ other_values[theirs]
    return len(common), np.array([values @ values, other_values @ other_values, difference, product])


def _squares(adapter: StoredAdapter, name: str, which: int) -> _Numbers:
    _, values = _spectrum(adapter, name)
    square = float(values @ values)
    return np.array([square if which == 1 else 0, square if which == 2 else 0, square, 0.0])


def _figures(squares: _Numbers) -> dict[str, Any]:
    first, second, difference = (float(np.sqrt(value)) for value in squares[:3])
    return {
        "change_norms": [first, second],
        "distance": difference,
        "relative_distance": difference / first if first else None,
        "cosine": float(squares[3]) / (first * second) if first and second else None,
    }


def _differing(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, list[Any]]:
    keys = [*first, *(key for key in second if key not in first)]
    return {key: [first.get(key), second.get(key)] for key in keys if first.get(key) != second.get(key)}


def _trained_differences(first: Mapping[str, Array], second: Mapping[str, Array]) -> dict[str, Any]:
    """Return for each parameter trained whole how far the second is from the first, or a sentence why there is none."""
    found: dict[str, Any] = {}
    for name in [*first, *(key for key in second if key not in first)]:
        if name not in first or name not in second:
            found[name] = f"only in the {'first' if name in first else 'second'}"
        elif first[name].shape != second[name].shape:
            found[name] = f"of shape {first[name].shape} and {second[name].shape}"
        elif not np.array_equal(first[name], second[name]):
            norm = float(np.linalg.norm(first[name]))
            found[name] = float(np.linalg.norm(first[name] - second[name])) / norm if norm else None
    return found
