"""Runs a network with ncnn twice, the second time between two marks; for the Python that QEMU emulates.

    python ncnn_runner.py EXTENSION NETWORK TENSORS

EXTENSION is the folder of ncnn's extension module, NETWORK the one of ``net.ncnn.param`` and ``net.ncnn.bin``. TENSORS
holds ``inputs.json`` (element format and shape of ``in0``, ``in1``, ...) and these inputs themselves; ``out0``,
``out1``, ... are written there. Neither numpy nor torch is needed.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import sys
from pathlib import Path
from typing import Any, Literal

MARK, END, BEGIN = 0x636F73, 0, 1


def mark(what: int) -> None:
    """Make a system call that fails without effect; instruction_counter.c knows its arguments."""
    with contextlib.suppress(OSError):
        os.getpriority(MARK, what)


def load(ncnn: Any, folder: Path) -> Any:
    """Load a network for one thread and FP32 only: neither half-precision storage nor arithmetic."""
    net = ncnn.Net()
    net.opt.num_threads = 1
    net.opt.use_vulkan_compute = False
    for name in dir(net.opt):
        if "fp16" in name or "bf16" in name:
            setattr(net.opt, name, False)
    if net.load_param(str(folder / "net.ncnn.param")) or net.load_model(str(folder / "net.ncnn.bin")):
        raise SystemExit("ncnn cannot load the converted network")
    return net


def infer(net: Any, inputs: dict[str, Any]) -> list[Any]:
    """Run the network once."""
    extractor = net.create_extractor()
    statuses = [extractor.input(name, value) for name, value in inputs.items()]
    results = [extractor.extract(name) for name in net.output_names()]
    if any(statuses) or any(status for status, _ in results):
        raise SystemExit("ncnn fails on this network")
    return [result for _, result in results]


def read_inputs(ncnn: Any, folder: Path) -> dict[str, Any]:
    """Read tensors of the machine's own number formats; ncnn's have no batch dimension."""
    described = json.loads((folder / "inputs.json").read_text())
    return {name: read_input(ncnn, folder / name, *form) for name, form in described.items()}


def read_input(ncnn: Any, file: Path, element: Literal["f", "i"], shape: list[int]) -> Any:
    """Read one tensor."""
    data = memoryview(file.read_bytes()).cast(element, shape)
    return ncnn.Mat(data).clone()  # the first does not own its memory: data must live until it is copied


def main() -> None:
    """Run a network as the command line says."""
    extension, network, tensors = map(Path, sys.argv[1:])
    sys.path.insert(0, str(extension))
    ncnn = importlib.import_module("ncnn")
    net = load(ncnn, network)
    inputs = read_inputs(ncnn, tensors)
    infer(net, inputs)
    mark(BEGIN)
    results = infer(net, inputs)
    mark(END)
    for name, result in zip(net.output_names(), results, strict=True):
        (tensors / name).write_bytes(memoryview(result).tobytes())


if __name__ == "__main__":
    main()
