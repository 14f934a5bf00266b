"""One inference under qemu-aarch64, compiled by cospipe or with ncnn, and what it executes."""

from __future__ import annotations

import dataclasses
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from emulated_ncnn import find_ncnn
from models import Network
from ncnn_network import convert, read_outputs, write_inputs
from torch.utils._pytree import tree_leaves

import cospipe
from cospipe.backends.emulator.instruction_counter import Report, plugin_options, read_report
from cospipe.backends.emulator.qemu import Emulator
from cospipe.backends.runtime.compare import relative_error
from cospipe.ir.errors import EmulatorError, UsageError, nearest
from cospipe.ir.soc import Soc, load_soc, soc_names
from cospipe.ir.tensor_file import Array


@dataclass(frozen=True)
class Setting:
    """What all inferences share.

    Parameters
    ----------
    mcpu : str
        The core type: what cospipe compiles for and QEMU emulates.
    emulator : Emulator
        QEMU and the AArch64 libraries.
    plugin : Path
        The plugin that counts.
    folder : Path
        Where ncnn, the Python that loads it and converted networks are kept.
    """

    mcpu: str
    emulator: Emulator
    plugin: Path
    folder: Path


@dataclass(frozen=True)
class Inference:
    """What an inference executed, and how far its outputs are from eager PyTorch's."""

    report: Report
    relative_error: float


def infer(runtime: str, network: Network, setting: Setting, look: Callable[[Report], None]) -> Inference:
    """Run one warm inference.

    Parameters
    ----------
    runtime : str
        A key of ``RUNTIMES``.
    network : Network
        The network and its inputs.
    setting : Setting
        How to run it.
    look : callable
        Is shown the report while the libraries it speaks of still exist.

    Raises
    ------
    CospipeError
        When the network cannot be compiled, converted or run.
    """
    with torch.inference_mode():
        expected = [value.numpy() for value in tree_leaves(network.module(*network.inputs))]
    with tempfile.TemporaryDirectory(prefix="instructions-") as folder:
        file = Path(folder) / "report"
        options = plugin_options(setting.plugin, file, setting.mcpu, setting.emulator.qemu)
        outputs = RUNTIMES[runtime](network, setting, options, Path(folder))
        report = read_report(file)
        look(report)
    if len(outputs) != len(expected):
        raise EmulatorError(f"{runtime} returned {len(outputs)} tensors, PyTorch {len(expected)}.")
    errors = [_error(output, wanted) for output, wanted in zip(outputs, expected, strict=True)]
    return Inference(report, max(errors))


def _error(output: Array, expected: Array) -> float:
    """Compare without the batch dimension of 1, which ncnn does not have."""
    return relative_error(output.reshape(-1), expected.reshape(-1))


def _run_cospipe(network: Network, setting: Setting, options: Sequence[str], folder: Path) -> list[Array]:
    soc, cores = one_core(setting.mcpu)
    made = cospipe.optimize(
        network.module, network.inputs, soc=soc.name, cores=cores, max_stages=1, output=folder / "bundle"
    )
    emulator = dataclasses.replace(setting.emulator, options=(*options, "-E", "COSPIPE_MARKED_RUN=1"))
    [stage] = made.bundle.manifest.stages
    files = made.bundle.file(stage.library), made.bundle.file(stage.weights)
    results = emulator.run_library(stage, *files, made.bundle.reference())
    return [results[spec.name] for spec in made.bundle.manifest.outputs]


def one_core(mcpu: str) -> tuple[Soc, str]:
    """Return a described chip with such a core, and one core of it as ``cores`` are written: ``big:1``.

    Raises
    ------
    UsageError
        When no AArch64 chip has one; the message names the nearest.
    """
    chips = [load_soc(name) for name in soc_names() if name != "host"]
    found = {
        cluster.core_type: (soc, f"{cluster.name}:1")
        for soc in chips
        if soc.architecture == "aarch64"
        for cluster in soc.clusters
    }
    if mcpu not in found:
        raise UsageError(f"No described AArch64 chip has a core {mcpu!r}. {nearest(mcpu, found)}")
    return found[mcpu]


def _run_ncnn(network: Network, setting: Setting, options: Sequence[str], folder: Path) -> list[Array]:
    ncnn = find_ncnn(setting.folder)
    converted = convert(network, setting.folder / "networks")
    write_inputs(network.inputs, folder)
    command = ncnn.command(setting.emulator, options, converted, folder)
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    if finished.returncode != 0:
        reason = finished.stderr.strip() or f"it ended with status {finished.returncode}"
        raise EmulatorError(f"ncnn failed under qemu-aarch64: {reason}")
    return read_outputs(folder)


RUNTIMES: dict[str, Callable[[Network, Setting, Sequence[str], Path], list[Array]]] = {
    "cospipe": _run_cospipe,
    "ncnn": _run_ncnn,
}
