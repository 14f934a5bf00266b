"""Profiles without a board: the time of every kernel of a network, from emulated code and the description of a core.

The computing time of a kernel is its cycles (``kernel_cycles.py``) at the highest clock. llvm-mca takes all data to be
in the L1 cache, so the memory side is added from the analytic model: a layer takes the longer of computing and of
moving its bytes, plus the start of each kernel and the hand-over of parts to other threads.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

import torch
from torch import nn
from torch.export import ExportedProgram

from cospipe.backends.emulator.cycle_counter import CycleCounter, find_cycle_counter
from cospipe.backends.emulator.kernel_cycles import NO_CYCLES, KernelCycles
from cospipe.backends.profiling.kernel_layers import KernelLayer, kernel_layers
from cospipe.backends.profiling.measuring import named_kernels
from cospipe.backends.profiling.networks import PreparedNetwork, compile_whole, prepare_network
from cospipe.backends.runtime.compare import relative_error
from cospipe.backends.tvm.lower import LoweredStage
from cospipe.backends.tvm.pack_request import tensor_specs
from cospipe.ir.analytic_latency import AnalyticLatencyModel
from cospipe.ir.errors import LoweringError, UsageError
from cospipe.ir.manifest import StageFiles
from cospipe.ir.plan import CoreConfiguration
from cospipe.ir.profile import ConfigurationProfile, KernelTime, NetworkProfile
from cospipe.ir.soc import Soc
from cospipe.ir.tensor_file import Array, write_tensors

LARGEST_ERROR = 1e-3
"""A network that computes something else than eager PyTorch under emulation has no profile."""

Progress = Callable[[str], None]
"""Is told in a few words what is done next."""


@dataclass(frozen=True)
class EmulatedRun:
    """One warm inference on one core configuration.

    Parameters
    ----------
    soc : Soc
        The chip.
    configuration : CoreConfiguration
        Its cores that were compiled for.
    lowered : LoweredStage
        What was compiled.
    kernels : mapping of str to KernelCycles
        What each kernel cost, all its calls together.
    layers : tuple of KernelLayer
        The layers of the network as it was compiled.
    """

    soc: Soc
    configuration: CoreConfiguration
    lowered: LoweredStage
    kernels: Mapping[str, KernelCycles]
    layers: tuple[KernelLayer, ...]

    def of_layer(self, layer: KernelLayer) -> KernelCycles:
        """Return what a layer cost; calls of the same kernel have the same shapes, so they cost the same."""
        calls = Counter(call.kernel for call in self.lowered.calls)
        kernels = [self.lowered.calls[place].kernel for place in layer.kernels]
        return sum((self.kernels.get(kernel, NO_CYCLES) / calls[kernel] for kernel in kernels), start=NO_CYCLES)

    def kernel_time(self, layer: KernelLayer) -> KernelTime:
        """Return the longer of computing and of moving a layer's bytes, plus starting its kernels."""
        model, clock_mhz = AnalyticLatencyModel(self.soc), self.soc.cluster(self.configuration.cluster).max_clock_mhz
        cost = self.of_layer(layer)
        moving_us = model.moving_us(layer.layer, self.configuration)
        start_us = (model.launch_cycles * len(layer.kernels) + model.fork_cycles * cost.forks) / clock_mhz
        time_us = round(max(cost.cycles / clock_mhz, moving_us) + start_us, 3)
        return KernelTime(nodes=layer.nodes, layer=layer.layer, median_us=time_us, p90_us=time_us, runs=1)

    def profile(self) -> ConfigurationProfile:
        """Return the time of every layer at the highest clock; the network takes as long as all of them."""
        kernels = tuple(map(self.kernel_time, self.layers))
        return ConfigurationProfile(
            cpu_ids=(),
            clock_mhz=(self.soc.cluster(self.configuration.cluster).max_clock_mhz,) * self.configuration.cores,
            measured_at=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            kernels=kernels,
            network_us=round(sum(kernel.median_us for kernel in kernels), 3),
        )


def emulate_profile(
    model: nn.Module | ExportedProgram,
    example_inputs: tuple[torch.Tensor, ...],
    soc: Soc,
    configurations: Sequence[CoreConfiguration],
    progress: Progress,
) -> NetworkProfile:
    """Predict the time of every kernel of a network on cores that nobody has at hand.

    Parameters
    ----------
    model : nn.Module or ExportedProgram
        The network; it is not changed.
    example_inputs : tuple of Tensor
        One frame.
    soc : Soc
        An AArch64 chip.
    configurations : sequence of CoreConfiguration
        Cores of it, each compiled for and emulated on its own.
    progress : callable
        Is told in a few words what is done next.

    Returns
    -------
    NetworkProfile
        Microseconds at the highest clock of each cluster; the network is called after its class.

    Raises
    ------
    UsageError
        When the chip is no AArch64 one, or does not have these cores.
    EmulatorError
        When QEMU, LLVM or a library is missing, or llvm-mca does not know a core; all that is wrong is told.
    CaptureError, UnsupportedModelError, LoweringError
        When the network cannot be compiled.
    """
    counter = counter_for(soc, configurations)
    progress("capturing")
    network = prepare_network(type(model).__name__, model, example_inputs)
    profiles = {str(cores): emulate(network, soc, cores, counter, progress).profile() for cores in configurations}
    return NetworkProfile(model=network.name, fingerprint=network.fingerprint, configurations=profiles)


def counter_for(soc: Soc, configurations: Sequence[CoreConfiguration]) -> CycleCounter:
    """Return what counts cycles on some cores, having checked all that can be wrong with a chip and this machine.

    Raises
    ------
    UsageError
        When the chip is no AArch64 one, or does not have these cores.
    EmulatorError
        When QEMU, LLVM or a library is missing, or llvm-mca does not know a core; all that is wrong is told.
    """
    if soc.architecture != "aarch64":
        raise UsageError(
            f"{soc.name} is no AArch64 chip but {soc.architecture}, so its code cannot be emulated; use the analytic"
            " model, or name an AArch64 chip, for example rk3588."
        )
    for cores in configurations:
        soc.check_cores([cores])
    return find_cycle_counter(soc.cluster(cores.cluster).core_type for cores in configurations)


def emulate(
    network: PreparedNetwork, soc: Soc, configuration: CoreConfiguration, counter: CycleCounter, progress: Progress
) -> EmulatedRun:
    """Compile a network for some cores, and emulate one warm inference.

    Raises
    ------
    LoweringError
        When it cannot be compiled, or computes something else than eager PyTorch.
    EmulatorError, LlvmToolError
        When QEMU or an LLVM tool fails.
    """
    with tempfile.TemporaryDirectory(prefix="cospipe-emulated-") as folder:
        library, weights = Path(folder) / "stage0.so", Path(folder) / "stage0.safetensors"
        progress("compiling")
        lowered = compile_whole(network, soc, configuration, library)
        stored = dict(network.graph_module.named_parameters(remove_duplicate=False))
        write_tensors(weights, {name: stored[name].detach().numpy() for name in lowered.weight_names})
        values = _values(network)
        stage = _stage(lowered, soc, configuration, values)
        progress("emulating")
        kernels, outputs = counter.count(stage, library, weights, values, soc.cluster(configuration.cluster))
    error = max(relative_error(outputs[spec.name], values[spec.name]) for spec in stage.outputs)
    if not error <= LARGEST_ERROR:
        raise LoweringError(f"Emulated for {configuration} it is {error:.1e} of the output's scale off eager PyTorch.")
    layers = kernel_layers(network.graph_module.graph, named_kernels(lowered))
    return EmulatedRun(soc, configuration, lowered, kernels, layers)


def _values(network: PreparedNetwork) -> dict[str, Array]:
    inputs = {f"input{place}": tensor.detach().numpy() for place, tensor in enumerate(network.inputs)}
    return inputs | {f"output{place}": array for place, array in enumerate(network.expected)}


def _stage(lowered: LoweredStage, soc: Soc, configuration: CoreConfiguration, values: dict[str, Array]) -> StageFiles:
    return StageFiles(
        name="stage0",
        library="stage0.so",
        weights="stage0.safetensors",
        core_type=soc.cluster(configuration.cluster).core_type,
        threads=configuration.cores,
        inputs=tensor_specs([name for name in values if name.startswith("input")], values),
        outputs=tensor_specs([name for name in values if name.startswith("output")], values),
        weight_names=lowered.weight_names,
        weight_arguments=lowered.weight_arguments,
    )
