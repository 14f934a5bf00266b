"""Adapters merged into a base's weights, as a file of plain weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from cospipe.ir.eager_adapters import Adapters
from cospipe.ir.errors import CospipeError, UsageError, several
from cospipe.ir.load import load_model
from cospipe.ir.tensor_file import write_tensors

_SUFFIXES = (".pt", ".safetensors")
_FLOATS = (torch.float64, torch.float32, torch.float16)
_INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool)


def write_merged(
    model: str,
    files: Sequence[Path],
    strengths: Sequence[float],
    output: Path,
    progress: Callable[[str], None] = lambda step: None,
) -> dict[str, Any]:
    """Write the weights of a base with the weighted sum of adapters merged in.

    Parameters
    ----------
    model : str
        The base, ``package.module:factory``.
    files : sequence of Path
        The adapters.
    strengths : sequence of float
        Of each adapter.
    output : Path
        ``.pt`` (a state dict for ``torch.load``) or ``.safetensors``, with the base's parameter names.
    progress : callable
        Is told what is done next.

    Returns
    -------
    dict
        What was written, ready for JSON.

    Raises
    ------
    UsageError
        When the model, a file or the output's directory does not exist.
    AdapterError
        When an adapter is damaged or was trained on another base; nothing is written.
    """
    if output.suffix not in _SUFFIXES or output.is_dir():
        raise UsageError(f"Merged weights are written as {' or '.join(_SUFFIXES)}; {output} is not such a file name.")
    if not output.parent.is_dir():
        raise UsageError(f"The directory {output.parent} does not exist.")
    if any(file.exists() and output.exists() and file.samefile(output) for file in files):
        raise UsageError(f"{output} is one of the adapters; write the merged weights to another file.")
    progress("Loading the model")
    base, _ = load_model(model, [[1]])
    if not isinstance(base, nn.Module):
        raise UsageError(f"{model} is an exported program; name the package.module:factory of the module itself.")
    before = {name: tensor.clone() for name, tensor in _tensors(base).items()}
    progress("Merging")
    merged = _tensors(_merged(base, files, strengths))
    progress(f"Writing {output}")
    _write(output, merged)
    return {
        "model": model,
        "adapters": [str(file) for file in files],
        "strengths": list(strengths),
        "output": str(output),
        "tensors": len(merged),
        "changed": [name for name, tensor in merged.items() if not torch.equal(tensor, before[name])],
        "file_bytes": output.stat().st_size,
    }


def _merged(base: nn.Module, files: Sequence[Path], strengths: Sequence[float]) -> nn.Module:
    adapters = Adapters(base)
    names = [f"{position} {file.name}" for position, file in enumerate(files)]
    for name, file in zip(names, files, strict=True):
        adapters.load(file, name)
    adapters.blend(dict(zip(names, strengths, strict=True)))
    adapters.merge()
    return adapters.remove()


def _tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.detach() for name, value in model.state_dict().items() if isinstance(value, torch.Tensor)}


def _write(output: Path, tensors: dict[str, torch.Tensor]) -> None:
    try:
        if output.suffix == ".safetensors":
            write_tensors(output, _arrays(output, tensors))
            return
        scratch = output.with_name(f"{output.name}.new")
        try:
            torch.save(tensors, scratch)
            scratch.replace(output)
        finally:
            scratch.unlink(missing_ok=True)
    except (OSError, RuntimeError) as error:  # torch's archive writer raises RuntimeError when the disk is full
        raise CospipeError(f"{output} could not be written: {error}.") from error


def _arrays(output: Path, tensors: dict[str, torch.Tensor]) -> dict[str, np.ndarray[Any, Any]]:
    odd = [
        f"{name} holds {tensor.dtype}" for name, tensor in tensors.items() if tensor.dtype not in _FLOATS + _INTEGERS
    ]
    if odd:
        raise UsageError(several(f"{output}: these tensors have a type for which only .pt will do", odd[:10]))
    return {name: np.ascontiguousarray(tensor.cpu().numpy()) for name, tensor in tensors.items()}
