"""Networks in ncnn's form: converted with pnnx, kept, and their inputs and outputs as ``ncnn_runner.py`` takes them."""

from __future__ import annotations

import hashlib
import importlib
import json
import subprocess
import tempfile
import warnings
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from models import Network

from cospipe.ir.errors import EmulatorError, UsageError
from cospipe.ir.tensor_file import Array

_ELEMENTS = {torch.float32: ("f32", "f"), torch.int64: ("i64", "i"), torch.int32: ("i32", "i")}
"""What pnnx calls an input's type, and the form ncnn takes it in; ncnn reads whole numbers as int32."""


def installed_version(package: str) -> str:
    """Return the version of a package that the benchmarks need.

    Raises
    ------
    UsageError
        When it is not installed.
    """
    try:
        return version(package)
    except PackageNotFoundError as error:
        raise UsageError(f"{package} is not installed; install it with: pip install {package}.") from error


def fill_once(folder: Path, fill: Callable[[Path], None]) -> Path:
    """Return a folder, filled by a function when it is not there yet; it is there whole or not at all."""
    if folder.exists():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="new-", dir=folder.parent) as scratch:
        new = Path(scratch) / folder.name
        new.mkdir()
        fill(new)
        if not folder.exists():  # another process may have been faster
            new.rename(folder)
    return folder


def convert(network: Network, folder: Path) -> Path:
    """Convert a network with FP32 weights.

    Parameters
    ----------
    network : Network
        Its inputs have a first dimension of 1 (the batch).
    folder : Path
        Where converted networks are kept; one with the same weights and input shapes is not converted again.

    Returns
    -------
    Path
        A folder with ``net.ncnn.param`` and ``net.ncnn.bin``.

    Raises
    ------
    UsageError
        When an input is nothing ncnn takes, or pnnx is not installed.
    EmulatorError
        When pnnx fails.
    """
    wrong = [value for value in network.inputs if value.dtype not in _ELEMENTS or value.shape[0] != 1]
    if wrong:
        described = ", ".join(f"{value.dtype} {tuple(value.shape)}" for value in wrong)
        raise UsageError(f"ncnn takes inputs of batch 1, of float32 or whole numbers; here are {described}.")
    name = f"{type(network.module).__name__}-{_fingerprint(network)}"
    return fill_once(folder / name, lambda scratch: _pnnx(network, scratch))


def _fingerprint(network: Network) -> str:
    shapes = [(tuple(value.shape), str(value.dtype)) for value in network.inputs]
    digest = hashlib.sha256(f"{network.module} {shapes} pnnx {installed_version('pnnx')}".encode())
    for name, tensor in network.module.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def _pnnx(network: Network, folder: Path) -> None:
    pnnx = importlib.import_module("pnnx")
    trace: Any = torch.jit.trace
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")  # it is deprecated, but pnnx takes nothing else
        trace(network.module, network.inputs, check_trace=False).save(str(folder / "net.pt"))
    inputs = (f"[{','.join(map(str, value.shape))}]{_ELEMENTS[value.dtype][0]}" for value in network.inputs)
    command = [pnnx.EXEC_PATH, "net.pt", f"inputshape={','.join(inputs)}", "fp16=0"]
    finished = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if finished.returncode != 0 or not (folder / "net.ncnn.bin").exists():
        reason = (finished.stderr.strip().splitlines() or [f"status {finished.returncode}"])[-1]
        raise EmulatorError(f"pnnx cannot convert {type(network.module).__name__}: {reason}.")
    for file in folder.iterdir():
        if file.name not in ("net.ncnn.param", "net.ncnn.bin"):
            file.unlink()


def write_inputs(inputs: Sequence[torch.Tensor], folder: Path) -> None:
    """Write ``in0``, ``in1``, ... without their batch dimension, and their formats and shapes in ``inputs.json``."""
    described = {}
    for index, value in enumerate(inputs):
        name = f"in{index}"
        described[name] = [_ELEMENTS[value.dtype][1], list(value.shape[1:])]
        data = value if value.is_floating_point() else value.to(torch.int32)
        (folder / name).write_bytes(data.contiguous().numpy().tobytes())
    (folder / "inputs.json").write_text(json.dumps(described), encoding="utf-8")


def read_outputs(folder: Path) -> list[Array]:
    """Return what ``ncnn_runner.py`` wrote, each tensor as one dimension."""
    files = sorted(folder.glob("out*"), key=lambda file: int(file.name.removeprefix("out")))
    return [np.frombuffer(file.read_bytes(), np.float32) for file in files]
