"""Inputs of a run: arrays from an .npz file, the rest filled in."""

from __future__ import annotations

import logging
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from cospipe.backends.tvm.tvmc.package_metadata import DYNAMIC, PackagedTensor
from cospipe.ir.errors import UsageError, nearest, several
from cospipe.ir.tensor_file import Array

FillMode = Literal["zeros", "ones", "random"]
FILL_MODES: tuple[FillMode, ...] = get_args(FillMode)
_SEED = 0
_INT8_END = 128

_log = logging.getLogger(__name__)


def read_inputs(path: str | Path) -> dict[str, Array]:
    """Read the arrays of an .npz file by name.

    Raises
    ------
    UsageError
        When it is not there or cannot be read.
    """
    try:
        with open(path, "rb") as file:
            if not zipfile.is_zipfile(file):
                raise ValueError("it is no .npz archive; numpy.savez writes one")
            file.seek(0)
            with np.load(file, allow_pickle=False) as archive:
                return dict(archive)
    except Exception as error:  # a damaged archive raises almost anything: BadZipFile, ValueError, zlib.error
        told = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise UsageError(f"The inputs in {path} cannot be read: {told or type(error).__name__}.") from error


def complete_inputs(
    tensors: Sequence[PackagedTensor], given: Mapping[str, Array], fill_mode: FillMode
) -> dict[str, Array]:
    """Return an array for each input of a network: what was given, or one that is filled.

    Parameters
    ----------
    tensors : sequence of PackagedTensor
        The network's inputs.
    given : mapping of str to array
        Arrays by input name.
    fill_mode : str
        What the others are filled with: ``zeros``, ``ones``, or ``random`` numbers, the same ones every time: floats
        between -1 and 1, int8 and uint8 from 0 to 127; wider integers are 0, an index that always exists, and booleans
        are true.

    Raises
    ------
    UsageError
        When an array is for no input or does not fit, or an input that was not given has sizes that nobody knows; all
        of them are listed.
    """
    if fill_mode not in FILL_MODES:
        raise UsageError(f"There is no fill mode {fill_mode!r}. {nearest(fill_mode, FILL_MODES)}")
    known = {tensor.name: tensor for tensor in tensors}
    problems = [_unknown(name, known) for name in given if name not in known]
    problems += [_misfit(known[name], np.asarray(array)) for name, array in given.items() if name in known]
    problems += [_unfillable(tensor) for tensor in tensors if tensor.name not in given and tensor.is_dynamic]
    if problems := list(filter(None, problems)):
        raise UsageError(several("These inputs do not fit the network", problems))
    generator = np.random.default_rng(_SEED)
    return {
        name: _converted(tensor, np.asarray(given[name])) if name in given else _filled(tensor, fill_mode, generator)
        for name, tensor in known.items()
    }


def _unknown(name: str, known: Mapping[str, PackagedTensor]) -> str:
    return f"{name!r} is no input of it; its inputs are {', '.join(map(str, known.values())) or 'none'}"


def _unfillable(tensor: PackagedTensor) -> str:
    return f"{tensor} has sizes that are not known before it runs; give an array for it in an .npz file by --inputs"


def _misfit(tensor: PackagedTensor, array: Array) -> str:
    shape, is_same_type = "x".join(map(str, array.shape)) or "scalar", str(array.dtype) == tensor.dtype
    if not _fits(tensor, array.shape) or not (is_same_type or _is_another_float(tensor, array)):
        return f"{tensor.name} is {shape} {array.dtype}, expected {tensor}"
    return ""


def _fits(tensor: PackagedTensor, shape: tuple[int, ...]) -> bool:
    if tensor.shape is None:
        return True
    if len(shape) != len(tensor.shape):
        return False
    return all(expected in (DYNAMIC, size) for size, expected in zip(shape, tensor.shape, strict=True))


def _is_another_float(tensor: PackagedTensor, array: Array) -> bool:
    return array.dtype.kind == "f" and np.dtype(tensor.dtype).kind == "f"


def _converted(tensor: PackagedTensor, array: Array) -> Array:
    """Return floats as the network's floats: numpy makes float64 where nobody asks for it, and tvmc always took it."""
    if str(array.dtype) == tensor.dtype:
        return array
    _log.warning("The input %s was converted from %s to %s.", tensor.name, array.dtype, tensor.dtype)
    with np.errstate(over="ignore"):
        return array.astype(tensor.dtype)


def _filled(tensor: PackagedTensor, fill_mode: FillMode, generator: np.random.Generator) -> Array:
    try:
        return _values(tensor, fill_mode, generator)
    except (MemoryError, ValueError) as error:  # numpy raises the latter for more bytes than there are addresses
        raise UsageError(f"There is no memory for the input {tensor}.") from error


def _values(tensor: PackagedTensor, fill_mode: FillMode, generator: np.random.Generator) -> Array:
    assert tensor.shape is not None
    if fill_mode != "random":
        return np.full(tensor.shape, float(fill_mode == "ones")).astype(tensor.dtype)
    if tensor.dtype in ("int8", "uint8"):
        return generator.integers(_INT8_END, size=tensor.shape).astype(tensor.dtype)
    return generator.uniform(-1, 1, size=tensor.shape).astype(tensor.dtype)
