"""Loading a prepared network into a runtime and running it: one function a runtime, each importing only what it needs.

A folder holds what the runtimes load: ``inputs.npz`` and, by runtime, a bundle, ``model.onnx``, OpenVINO's
``model.xml``, ncnn's ``model.ncnn.param`` or the pickled module. See ``runtimes_prepare.py`` for who writes it.

Every runtime computes in FP32 with its own defaults but for these settings:

* cospipe: its one stage is called directly, in a thread with a TVM pool on the cores of its plan, placed as the
  pipeline runner places it (no queue is timed);
* ONNX Runtime: sequential execution, as many intra-op threads as asked for, idle threads spin as is its default;
* OpenVINO: latency hint, one stream, FP32 (its default computes in bfloat16 on processors that can);
* torch-eager: the module as it is, in inference mode;
* torch-inductor: ``torch.compile`` with frozen weights, which lets it pack them (on ResNet-18 twice as fast);
* ncnn: FP32 storage and arithmetic (its default is FP16 where the processor can).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cospipe.ir.errors import UsageError, first_line

Array = npt.NDArray[Any]
RUNTIMES = ("cospipe", "onnxruntime", "openvino", "torch-eager", "torch-inductor", "ncnn")


@dataclass(frozen=True)
class Session:
    """A network in a runtime with its input.

    Parameters
    ----------
    run : callable
        Runs it once, by the lightest call of the runtime's Python interface, and returns the runtime's own outputs.
    arrays : callable
        Turns these into arrays in the network's order.
    inputs : tuple of arrays
        Kept here because runtimes read them in place; OpenVINO does not keep them itself.
    """

    run: Callable[[], Any]
    arrays: Callable[[Any], list[Array]]
    inputs: tuple[Array, ...]


@dataclass(frozen=True)
class Request:
    """What to load: the folder, its inputs and the cores; there are as many threads as cores."""

    folder: Path
    inputs: tuple[Array, ...]
    cpu_ids: tuple[int, ...]

    @property
    def threads(self) -> int:
        """How many threads the runtime gets."""
        return len(self.cpu_ids)


def read_inputs(folder: Path) -> tuple[Array, ...]:
    """Return the network's inputs in order."""
    with np.load(folder / "inputs.npz") as stored:
        return tuple(stored[name] for name in sorted(stored.files))


def load_session(runtime: str, folder: Path, inputs: tuple[Array, ...], cpu_ids: Sequence[int]) -> Session:
    """Load a network; call this, and later the session, in a thread that may run on these cores only.

    Raises
    ------
    UsageError
        When the runtime is not installed.
    """
    return _LOADERS[runtime](Request(folder, inputs, tuple(cpu_ids)))


def library(name: str) -> Any:
    """Import a runtime's package.

    Raises
    ------
    UsageError
        When it is not installed, or cannot be imported.
    """
    try:
        return import_module(name)
    except ImportError as error:
        raise UsageError(
            f"{name} cannot be imported ({first_line(error)}); install it with: pip install -e '.[bench]'."
        ) from error


def _cospipe(request: Request) -> Session:
    from cospipe.backends.bundle import open_bundle
    from cospipe.backends.runtime.stage import StageExecutable, as_tensor, to_numpy
    from cospipe.backends.runtime.tvm_runtime import configure_thread_pool

    bundle = open_bundle(request.folder / "cospipe")
    manifest, files = bundle.manifest, bundle.manifest.stages[0]
    cpus = request.cpu_ids[: manifest.stages[0].threads]
    configure_thread_pool(cpus, len(cpus))
    executable = StageExecutable(files, bundle.file(files.library), bundle.file(files.weights))
    names = [spec.name for spec in manifest.inputs]
    values = {name: as_tensor(array) for name, array in zip(names, request.inputs, strict=True)}
    outputs = [spec.name for spec in manifest.outputs]
    executable.call(values)
    os.sched_setaffinity(0, cpus[:1])  # as the runner does: the pool has just widened it to all its cores
    return Session(
        run=lambda: executable.call(values),
        arrays=lambda results: list(to_numpy(results, outputs).values()),
        inputs=request.inputs,
    )


def _onnxruntime(request: Request) -> Session:
    onnxruntime = library("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = request.threads
    options.inter_op_num_threads = 1
    file = str(request.folder / "model.onnx")
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    feeds = {spec.name: array for spec, array in zip(session.get_inputs(), request.inputs, strict=True)}
    return Session(run=lambda: session.run(None, feeds), arrays=list, inputs=request.inputs)


def _openvino(request: Request) -> Session:
    openvino = library("openvino")
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
        "INFERENCE_NUM_THREADS": request.threads,
        "INFERENCE_PRECISION_HINT": "f32",
    }
    compiled = openvino.Core().compile_model(str(request.folder / "model.xml"), "CPU", settings)
    infer_request = compiled.create_infer_request()
    for index, array in enumerate(request.inputs):
        infer_request.set_input_tensor(index, openvino.Tensor(array, shared_memory=True))

    def run() -> Any:
        infer_request.infer()
        return infer_request

    outputs = range(len(compiled.outputs))
    return Session(run, lambda done: [done.get_output_tensor(i).data.copy() for i in outputs], request.inputs)


def _torch_eager(request: Request) -> Session:
    torch = library("torch")
    torch.set_num_threads(request.threads)
    return _torch_session(request, torch.load(request.folder / "module.pt", weights_only=False, mmap=True))


def _torch_inductor(request: Request) -> Session:
    torch = library("torch")
    torch.set_num_threads(request.threads)
    library("torch._inductor.config").freezing = True
    module = torch.load(request.folder / "module.pt", weights_only=False, mmap=True)
    return _torch_session(request, torch.compile(module))


def _torch_session(request: Request, module: Any) -> Session:
    torch, pytree = library("torch"), library("torch.utils._pytree")
    inputs = [torch.from_numpy(array) for array in request.inputs]

    def run() -> Any:
        with torch.inference_mode():
            return module(*inputs)

    return Session(run, lambda outputs: [value.numpy() for value in pytree.tree_leaves(outputs)], request.inputs)


def _ncnn(request: Request) -> Session:
    ncnn = library("ncnn")
    net = ncnn.Net()
    net.opt.num_threads = request.threads
    net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = False
    path = str(request.folder / "model.ncnn")
    if net.load_param(f"{path}.param") or net.load_model(f"{path}.bin"):
        raise UsageError("ncnn cannot load what pnnx made of this network.")
    frames = [_ncnn_frame(ncnn, array) for array in request.inputs]
    outputs = [f"out{index}" for index in range(len(net.output_names()))]

    def run() -> list[Any]:
        extractor = net.create_extractor()
        for index, frame in enumerate(frames):
            extractor.input(f"in{index}", frame)
        results = [extractor.extract(name) for name in outputs]
        if any(status for status, _ in results):
            raise UsageError("ncnn fails on this network.")
        return [result for _, result in results]

    return Session(run, lambda results: [np.array(result) for result in results], request.inputs)


def _ncnn_frame(ncnn: Any, array: Array) -> Any:
    """Return one frame without its batch dimension; ncnn reads whole numbers as int32."""
    frame = np.ascontiguousarray(array[0], np.int32 if array.dtype == np.int64 else None)
    return ncnn.Mat(frame).clone()  # a Mat made of an array does not keep it alive


_LOADERS: dict[str, Callable[[Request], Session]] = {
    "cospipe": _cospipe,
    "onnxruntime": _onnxruntime,
    "openvino": _openvino,
    "torch-eager": _torch_eager,
    "torch-inductor": _torch_inductor,
    "ncnn": _ncnn,
}
