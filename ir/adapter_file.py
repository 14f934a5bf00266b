"""Adapter files: safetensors with a JSON header that says what they fit. Needs no torch: boards read them, too.

Tensors: ``coefficients.NAME`` (FP32) and ``places.NAME`` (row * columns + column of the spectrum, INT32, or INT64 for
matrices with more elements) for each adapted weight, ``trained.NAME`` (FP32) for each parameter that was trained whole.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from math import prod
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cospipe.ir.errors import AdapterError, BundleError, UsageError, first_line, several
from cospipe.ir.json_text import parse_json
from cospipe.ir.spectral_config import SpectralConfig
from cospipe.ir.tensor_file import Array, map_tensors, read_metadata, write_tensors

_HEADER = "cospipe.adapter"
_FINGERPRINT_LENGTH = 32


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class AdaptedWeight(_Part):
    """What is known of one adapted weight; ``fingerprint`` is of the base's values."""

    shape: tuple[Annotated[int, Field(ge=1, le=2**31)], ...] = Field(min_length=2)
    n: Annotated[int, Field(ge=1)]
    alpha: Annotated[float, Field(allow_inf_nan=False)]
    fingerprint: Annotated[str, Field(pattern=rf"^[0-9a-f]{{{_FINGERPRINT_LENGTH}}}$")]


class AdapterHeader(_Part):
    """The JSON header of an adapter file.

    ``config`` are the options it was made with (:class:`~cospipe.ir.spectral_config.SpectralConfig`), ``base`` the name
    of the model for people, ``labels`` what its outputs mean, ``trained`` the shapes of parameters trained whole.
    """

    format: Literal["cospipe-adapter"] = "cospipe-adapter"
    version: Literal[1] = 1
    base: str = ""
    config: dict[str, int | float | str] = Field(default_factory=dict)
    labels: tuple[str, ...] = ()
    weights: dict[str, AdaptedWeight] = Field(default_factory=dict)
    trained: dict[str, tuple[Annotated[int, Field(ge=0, le=2**31)], ...]] = Field(default_factory=dict)


@dataclass(frozen=True)
class StoredAdapter:
    """An adapter as it lies in a file.

    Parameters
    ----------
    header : AdapterHeader
        What it fits.
    coefficients, places : dict of str to array, shape (n,)
        By weight name; a place is row * columns + column of the weight's spectrum.
    trained : dict of str to array
        Parameters trained whole, by name.
    """

    header: AdapterHeader
    coefficients: dict[str, Array] = field(default_factory=dict)
    places: dict[str, Array] = field(default_factory=dict)
    trained: dict[str, Array] = field(default_factory=dict)

    @property
    def coefficient_count(self) -> int:
        """Coefficients of all weights."""
        return sum(weight.n for weight in self.header.weights.values())


def fingerprint(weight: Array) -> str:
    """Return the first half of the SHA-256 of a weight's shape and of its values as little-endian FP32.

    A weight in half precision has the fingerprint of the same values in FP32.
    """
    digest = hashlib.sha256(",".join(map(str, weight.shape)).encode())
    digest.update(np.ascontiguousarray(weight, dtype="<f4").data)
    return digest.hexdigest()[:_FINGERPRINT_LENGTH]


def write_adapter(path: str | Path, adapter: StoredAdapter) -> None:
    """Write an adapter; an earlier file is replaced only when the new one is whole.

    Raises
    ------
    AdapterError
        When coefficients are not finite, or the file cannot be written.
    """
    path = Path(path)
    if problems := _shape_problems(adapter) or _number_problems(adapter):
        raise AdapterError(several(f"{path} was not written", problems))
    tensors = {f"coefficients.{name}": np.asarray(array, np.float32) for name, array in adapter.coefficients.items()}
    tensors |= {f"places.{name}": _smallest(array) for name, array in adapter.places.items()}
    tensors |= {f"trained.{name}": np.asarray(array, np.float32) for name, array in adapter.trained.items()}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_tensors(path, tensors, {_HEADER: adapter.header.model_dump_json(exclude_defaults=False)})
    except OSError as error:
        raise AdapterError(f"The adapter {path} could not be written: {first_line(error)}.") from error


def read_adapter(path: str | Path) -> StoredAdapter:
    """Read an adapter and check that it is whole and makes sense.

    Raises
    ------
    UsageError
        When there is no such file.
    AdapterError
        When it is no adapter file, is cut off, or contradicts itself; every contradiction is listed.
    """
    path = Path(path)
    if not path.is_file():
        raise UsageError(f"There is no adapter file {str(path)!r}.")
    try:
        header, mapped = read_metadata(path).get(_HEADER), map_tensors(path)
        tensors = {name: np.array(array) for name, array in mapped.items()}  # the file may be overwritten in place
    except BundleError as error:
        raise AdapterError(str(error)) from error
    except OSError as error:
        raise AdapterError(f"{path} cannot be read: {first_line(error)}.") from error
    if header is None:
        raise AdapterError(f"{path} is a safetensors file, but no adapter of cospipe: its header does not say so.")
    adapter = _of_tensors(_parsed(header, path), tensors)
    unknown = sorted(set(tensors) - set(_tensor_names(adapter.header)))
    problems = [f"{name} is not named in its header" for name in unknown]
    problems += _option_problems(adapter.header.config)
    problems += _shape_problems(adapter) or _number_problems(adapter)
    if problems:
        raise AdapterError(several(f"{path} contradicts itself and is not used", problems))
    return adapter


def _parsed(text: str, path: Path) -> AdapterHeader:
    try:
        parse_json(text)  # refuses what other readers could read differently
        return AdapterHeader.model_validate_json(text, strict=True)
    except ValidationError as error:
        versions = [e["input"] for e in error.errors() if e["loc"] == ("version",)]
        if any(isinstance(version, int) and version > 1 for version in versions):
            raise AdapterError(
                f"{path} is of format version {versions[0]}, this version of cospipe reads 1; update cospipe."
            ) from error
        mistakes = [f"{'.'.join(map(str, e['loc'])) or 'header'}: {e['msg']}" for e in error.errors()]
        raise AdapterError(several(f"The header of {path} cannot be read", mistakes)) from error
    except ValueError as error:
        raise AdapterError(f"The header of {path} cannot be read: {error}.") from error


def _of_tensors(header: AdapterHeader, tensors: Mapping[str, Array]) -> StoredAdapter:
    def found(kind: str, names: Mapping[str, Any]) -> dict[str, Array]:
        return {name: tensors[f"{kind}.{name}"] for name in names if f"{kind}.{name}" in tensors}

    return StoredAdapter(
        header, found("coefficients", header.weights), found("places", header.weights), found("trained", header.trained)
    )


def _tensor_names(header: AdapterHeader) -> Iterator[str]:
    yield from (f"{kind}.{name}" for name in header.weights for kind in ("coefficients", "places"))
    yield from (f"trained.{name}" for name in header.trained)


def _option_problems(options: Mapping[str, int | float | str]) -> list[str]:
    kinds = {option.name: type(option.default) for option in fields(SpectralConfig)}
    problems = [f"config: there is no option {name}" for name in options.keys() - kinds]
    problems += [
        f"config: {name} is {options[name]!r}"
        for name in options.keys() & kinds
        if not isinstance(options[name], (int, float) if kinds[name] is float else kinds[name])
    ]
    if not problems:
        try:
            SpectralConfig(**options)  # type: ignore[arg-type]
        except UsageError as error:
            problems.append(f"config: {error}")
    return sorted(problems)


def _shape_problems(adapter: StoredAdapter) -> list[str]:
    problems = []
    for name, weight in adapter.header.weights.items():
        problems += _misfits(f"coefficients of {name}", adapter.coefficients.get(name), (weight.n,), "f")
        problems += _misfits(f"places of {name}", adapter.places.get(name), (weight.n,), "i")
        if weight.n > prod(weight.shape):
            problems.append(f"{name} has {weight.n} coefficients, but only {prod(weight.shape)} elements")
    for name, shape in adapter.header.trained.items():
        problems += _misfits(name, adapter.trained.get(name), shape, "f")
    return problems


def _misfits(what: str, array: Array | None, shape: Sequence[int], kind: str) -> list[str]:
    if array is None:
        return [f"{what}: missing"]
    if array.shape != tuple(shape) or array.dtype.kind != kind:
        return [f"{what}: {array.dtype} of shape {array.shape}, its header says {tuple(shape)}"]
    return []


def _number_problems(adapter: StoredAdapter) -> list[str]:
    weights = adapter.header.weights
    arrays = [(f"coefficients of {name}", array, weights[name].alpha) for name, array in adapter.coefficients.items()]
    arrays += [(name, array, 1.0) for name, array in adapter.trained.items()]
    wrong = [what for what, array, scale in arrays if not _are_finite(array, scale)]
    problems = [f"{what}: infinite or undefined numbers" for what in wrong]
    for name, weight in weights.items():
        places = adapter.places[name]
        if places.min() < 0 or places.max() >= prod(weight.shape):
            problems.append(f"places of {name}: outside of its {prod(weight.shape)} elements")
        elif len(np.unique(places)) != len(places):
            problems.append(f"places of {name}: one is named twice")
    return problems


def _are_finite(array: Array, scale: float) -> bool:
    """Tell whether the numbers are finite as they are used: in FP32, times their scale."""
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.isfinite(array.astype(np.float32) * np.float32(scale)).all())


def _smallest(places: Array) -> Array:
    return places.astype(np.int32 if places.max(initial=0) < 2**31 else np.int64)
