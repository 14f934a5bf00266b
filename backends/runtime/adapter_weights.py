"""What an adapter file changes among the stored weights of a bundle."""

from __future__ import annotations

from math import prod
from pathlib import Path

import numpy as np

from cospipe.backends.bundle import Bundle
from cospipe.ir.adapter_file import AdaptedWeight, StoredAdapter, fingerprint, read_adapter
from cospipe.ir.errors import AdapterError, several
from cospipe.ir.manifest import AdapterSlot, StageFiles
from cospipe.ir.tensor_file import Array, TensorEntry, TensorFile

Overrides = dict[str, Array]
"""Values that take the place of stored weights, by weight name."""

_RECOMPILE = "compile the model with --passes 'insert-adapters{...},merge-adapters{at=load}'"


def adapter_overrides(bundle: Bundle, adapter: StoredAdapter | str | Path | None) -> dict[str, Overrides]:
    """Return what an adapter puts in the place of stored weights.

    Weights that the bundle has room for an adapter on, and this one does not change, are the base's.

    Parameters
    ----------
    bundle : Bundle
        A pipeline compiled with ``merge-adapters{at=load}``.
    adapter : StoredAdapter, str, Path or None
        An adapter, or its file; None for the adapter the bundle was compiled with.

    Returns
    -------
    dict of str to Overrides
        By stage name, an entry for every stage.

    Raises
    ------
    AdapterError
        When the adapter does not fit the bundle, or was trained on another base; everything is listed.
    """
    stages = bundle.manifest.stages
    if adapter is None:
        return {stage.name: {} for stage in stages}
    stored = adapter if isinstance(adapter, StoredAdapter) else read_adapter(adapter)
    files = {stage.name: TensorFile(bundle.file(stage.weights)) for stage in stages}
    problems = _unknown(stored, stages)
    for stage in stages:
        problems += _misfits(stored, stage, files[stage.name])
    if problems:
        what = "The adapter" if isinstance(adapter, StoredAdapter) else str(adapter)
        raise AdapterError(several(f"{what} does not fit this bundle", list(dict.fromkeys(problems))))
    return {stage.name: _overrides(stored, stage, files[stage.name]) for stage in stages}


def _unknown(stored: StoredAdapter, stages: tuple[StageFiles, ...]) -> list[str]:
    slots = {slot.weight for stage in stages for slot in stage.adapter_slots}
    replaceable = {name for stage in stages for name in stage.replaceable}
    problems = [
        f"the bundle has no room for an adapter on {name}; {_RECOMPILE}"
        for name in stored.header.weights
        if name not in slots
    ]
    return problems + [
        f"{name} was trained whole, but is not stored as it is in this bundle (it is folded into another weight, or"
        " there is none of that name)"
        for name in stored.header.trained
        if name not in replaceable
    ]


def _misfits(stored: StoredAdapter, stage: StageFiles, file: TensorFile) -> list[str]:
    problems = []
    for slot in stage.adapter_slots:
        adapted = stored.header.weights.get(slot.weight)
        if not _is_room(slot, file):
            problems.append(f"the bundle's room for adapters on {slot.weight} contradicts itself")
        elif adapted is not None:
            problems += _slot_problems(slot, adapted, file) or _large_coefficients(slot, stored, file)
    for name in stage.replaceable:
        if name in stored.header.trained:
            problems += _trained_problems(name, stored, file)
    return problems


def _is_room(slot: AdapterSlot, file: TensorFile) -> bool:
    """Tell whether an adapter can be stored in a slot at all: a number and a place for each of its coefficients."""
    weight, coefficients, places = (file.entries[name] for name in (slot.weight, slot.coefficients, slot.places))
    are_kinds_right = all(map(_is_float, (weight, coefficients))) and places.dtype in ("int32", "int64")
    return are_kinds_right and prod(coefficients.shape) == prod(places.shape)


def _is_float(entry: TensorEntry) -> bool:
    return np.dtype(entry.dtype).kind == "f"


def _large_coefficients(slot: AdapterSlot, stored: StoredAdapter, file: TensorFile) -> list[str]:
    dtype = file.entries[slot.coefficients].dtype
    if _are_storable(_scaled_coefficients(stored, slot.weight), dtype):
        return []
    return [f"a coefficient of {slot.weight} is too large for {dtype}, as which the bundle stores it"]


def _trained_problems(name: str, stored: StoredAdapter, file: TensorFile) -> list[str]:
    shape, found = stored.header.trained[name], file.entries[name]
    if shape != found.shape:
        return [f"{name} is {found.shape} in the bundle, {shape} in the adapter"]
    if not _is_float(found):
        return [f"{name} is {found.dtype} in the bundle, an adapter holds floating point numbers"]
    if not _are_storable(stored.trained[name], found.dtype):
        return [f"a number of {name} is too large for {found.dtype}, as which the bundle stores it"]
    return []


def _are_storable(values: Array, dtype: str) -> bool:
    """Tell whether finite numbers stay finite in another type of floating point numbers."""
    with np.errstate(over="ignore"):
        return bool(np.isfinite(values.astype(dtype)).all())


def _scaled_coefficients(stored: StoredAdapter, weight: str) -> Array:
    coefficients: Array = stored.coefficients[weight] * np.float32(stored.header.weights[weight].alpha)
    return coefficients


def _slot_problems(slot: AdapterSlot, adapted: AdaptedWeight, file: TensorFile) -> list[str]:
    shape, room = file.entries[slot.weight].shape, prod(file.entries[slot.coefficients].shape)
    if shape != adapted.shape:
        return [f"{slot.weight} is {shape} in the bundle, {adapted.shape} in the adapter"]
    if adapted.n > room:
        return [f"{slot.weight} has {adapted.n} coefficients, the bundle has room for {room}; {_RECOMPILE}"]
    places = file.entries[slot.places].dtype
    if prod(shape) - 1 > np.iinfo(places).max:
        return [f"{slot.weight} has {prod(shape)} elements, more than places stored as {places} can name"]
    if fingerprint(file.tensor(slot.weight)) != adapted.fingerprint:
        return [f"{slot.weight} has other values than the one the adapter was trained on: it is another base"]
    return []


def _overrides(stored: StoredAdapter, stage: StageFiles, file: TensorFile) -> Overrides:
    result: Overrides = {name: value for name, value in stored.trained.items() if name in stage.replaceable}
    for slot in stage.adapter_slots:
        room = prod(file.entries[slot.coefficients].shape)
        coefficients, places = np.zeros(room, np.float32), np.zeros(room, file.entries[slot.places].dtype)
        if slot.weight in stored.header.weights:
            n = stored.header.weights[slot.weight].n
            coefficients[:n] = _scaled_coefficients(stored, slot.weight)
            places[:n] = stored.places[slot.weight]
        result |= {slot.coefficients: coefficients, slot.places: places}
    return {name: _as_stored(value, name, file) for name, value in result.items()}


def _as_stored(value: Array, name: str, file: TensorFile) -> Array:
    return np.ascontiguousarray(value, dtype=file.entries[name].dtype)
