"""Turning a PyTorch network into what each runtime loads."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from models import Network
from runtimes import Array, library, load_session
from torch.utils._pytree import tree_leaves

import cospipe
from cospipe.ir.errors import UsageError

_NCNN_TYPES = {torch.float32: "f32", torch.int64: "i64", torch.int32: "i32"}
COMPILERS = ("cospipe", "torch-inductor")
"""Runtimes that compile ahead of time; the others convert a file and optimise it when it is loaded."""


@dataclass(frozen=True)
class Preparation:
    """What is prepared, and where to.

    Parameters
    ----------
    network : Network
        The network.
    folder : Path
        Where the runtimes look for their files.
    cpu_ids : tuple of int
        Cores it will run on.
    cores : str
        The same for cospipe: ``cpu:1``.
    """

    network: Network
    folder: Path
    cpu_ids: tuple[int, ...]
    cores: str


def write_frame(preparation: Preparation) -> list[Array]:
    """Write the inputs and return the outputs of eager PyTorch for them."""
    network = preparation.network
    arrays = {f"input{index:03}": tensor.numpy() for index, tensor in enumerate(network.inputs)}
    np.savez(preparation.folder / "inputs.npz", allow_pickle=False, **arrays)
    with torch.inference_mode():
        return [value.numpy() for value in tree_leaves(network.module(*network.inputs))]


def prepare(runtime: str, preparation: Preparation) -> float | None:
    """Write what a runtime loads; return the seconds it took where that was compiling, see ``COMPILERS``.

    Raises
    ------
    UsageError
        When the runtime is not installed or cannot take the network.
    """
    started = time.perf_counter()
    _PREPARERS[runtime](preparation)
    return time.perf_counter() - started if runtime in COMPILERS else None


def _cospipe(preparation: Preparation) -> None:
    network = preparation.network
    cospipe.optimize(
        network.module,
        network.inputs,
        soc="host",
        output=preparation.folder / "cospipe",
        cores=preparation.cores,
        max_stages=1,
    )


def _onnx(preparation: Preparation) -> None:
    """Write model.onnx unless it is there; weights in a file of their own: ONNX Runtime then needs less memory."""
    library("onnxscript")
    file = preparation.folder / "model.onnx"
    if not file.exists():
        network = preparation.network
        torch.onnx.export(network.module, network.inputs, file, dynamo=True, external_data=True, verbose=False)


def _openvino(preparation: Preparation) -> None:
    openvino = library("openvino")
    _onnx(preparation)
    model = openvino.Core().read_model(str(preparation.folder / "model.onnx"))
    openvino.save_model(model, str(preparation.folder / "model.xml"), compress_to_fp16=False)


def _torch_eager(preparation: Preparation) -> None:
    file = preparation.folder / "module.pt"
    if not file.exists():
        torch.save(preparation.network.module, file)


def _torch_inductor(preparation: Preparation) -> None:
    """Compile once: what is loaded later finds the kernels in inductor's cache."""
    _torch_eager(preparation)
    inputs = tuple(tensor.numpy() for tensor in preparation.network.inputs)
    load_session("torch-inductor", preparation.folder, inputs, preparation.cpu_ids).run()


def _ncnn(preparation: Preparation) -> None:
    pnnx, _ = library("pnnx"), library("ncnn")
    network, folder = preparation.network, preparation.folder
    wrong = [value for value in network.inputs if value.dtype not in _NCNN_TYPES or value.shape[0] != 1]
    if wrong:
        raise UsageError("ncnn takes inputs of batch 1, of float32 or whole numbers.")
    traced = library("torch.jit").trace(network.module, network.inputs, check_trace=False)
    traced.save(str(folder / "model.pt"))
    shapes = [f"[{','.join(map(str, value.shape))}]{_NCNN_TYPES[value.dtype]}" for value in network.inputs]
    command = [pnnx.EXEC_PATH, "model.pt", f"inputshape={','.join(shapes)}", "fp16=0"]
    done = subprocess.run(command, cwd=folder, check=False)
    if done.returncode or not (folder / "model.ncnn.bin").exists():
        raise UsageError(f"pnnx cannot convert this network (exit code {done.returncode}).")


_PREPARERS: dict[str, Callable[[Preparation], None]] = {
    "cospipe": _cospipe,
    "onnxruntime": _onnx,
    "openvino": _openvino,
    "torch-eager": _torch_eager,
    "torch-inductor": _torch_inductor,
    "ncnn": _ncnn,
}
