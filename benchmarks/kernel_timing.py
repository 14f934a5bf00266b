"""Times of the single kernels of a network, taken by the virtual machine's instrument around each call.

A network is compiled as its bundle's only stage would be, and run in a thread of its own with a pool of its own. The
instrument takes about a microsecond itself, which the shortest kernels' times contain.
"""

from __future__ import annotations

import gc
import resource
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tvm
from models import Network
from pinned_thread import run_on_cores
from torch.utils._pytree import tree_leaves
from tvm import relax

from cospipe.backends.runtime.compare import relative_error
from cospipe.backends.tvm.kernel_descriptions import KernelDescription
from cospipe.backends.tvm.lower import LoweredStage, lower_stage
from cospipe.backends.tvm.target import core_target, kernel_core
from cospipe.ir.capture import capture
from cospipe.ir.errors import LoweringError
from cospipe.ir.soc import Cluster
from cospipe.passes.fold_batch_norm import FoldBatchNorm

WARM_UP_RUNS = 3
LARGEST_ERROR = 1e-3
"""A network that computes something else than eager PyTorch is not timed."""


@dataclass(frozen=True)
class Duration:
    """At least so many timed runs, and at least so many seconds of them."""

    runs: int
    seconds: float


@dataclass(frozen=True)
class KernelCall:
    """One call of a kernel in every run of the network.

    Parameters
    ----------
    kernel : KernelDescription
        What is called.
    input_bytes, weight_bytes, output_bytes : int
        Sizes of what it reads from other kernels, reads from weights, and writes.
    time_us : float
        Shortest time of all runs.
    """

    kernel: KernelDescription
    input_bytes: int
    weight_bytes: int
    output_bytes: int
    time_us: float

    @property
    def moved_bytes(self) -> int:
        """Everything it reads and writes, each tensor once."""
        return self.input_bytes + self.weight_bytes + self.output_bytes


@dataclass(frozen=True)
class Timing:
    """The calls of a network's kernels in order, and the share of runs in which another program took a core away."""

    calls: list[KernelCall]
    interrupted: float


@dataclass
class _Instrument:
    """Is called before and after everything the virtual machine calls; notes what takes part and how long it takes."""

    kernels: Mapping[str, KernelDescription]
    weights: frozenset[Any]
    calls: list[tuple[KernelDescription, int, int, int]] = field(default_factory=list)
    times_ns: list[int] = field(default_factory=list)
    notes_calls: bool = False
    _started_ns: int = 0

    def __call__(self, _function: Any, name: str, is_before: bool, _result: Any, *arguments: Any) -> int:
        if is_before:
            self._started_ns = time.perf_counter_ns()
            return 0
        ended_ns = time.perf_counter_ns()
        if name in self.kernels:
            self.times_ns.append(ended_ns - self._started_ns)
            if self.notes_calls:
                self.calls.append((self.kernels[name], *self._bytes(arguments)))
        return 0

    def _bytes(self, arguments: tuple[Any, ...]) -> tuple[int, int, int]:
        """Bytes of inputs, weights and output; a kernel writes its last argument."""
        *read, written = [argument for argument in arguments if isinstance(argument, tvm.runtime.Tensor)]
        weights = [tensor for tensor in read if tensor in self.weights]
        return _size(read) - _size(weights), _size(weights), _size([written])


def _size(tensors: list[Any]) -> int:
    return sum(prod(tensor.shape) * np.dtype(str(tensor.dtype)).itemsize for tensor in tensors)


def time_kernels(
    network: Network, cluster: Cluster, architecture: str, threads: int, duration: Duration, folder: Path
) -> Timing:
    """Compile a network for some cores of this machine and time its kernels.

    Parameters
    ----------
    network : Network
        The network and one frame.
    cluster : Cluster
        Cores of this machine.
    architecture : str
        Of this machine.
    threads : int
        How many of the cores.
    duration : Duration
        How long to go on.
    folder : Path
        Where the library is written.

    Returns
    -------
    Timing
        What was measured.

    Raises
    ------
    LoweringError
        When it cannot be compiled or computes something else than eager PyTorch.
    """
    captured = capture(network.module, network.inputs)
    graph_module = FoldBatchNorm()(captured).graph_module
    library = folder / f"{threads}-threads.so"
    target, core = core_target(cluster, threads, architecture), kernel_core(cluster, threads, architecture)
    lowered = lower_stage(graph_module, network.inputs, target, core, library)
    stored = dict(graph_module.named_parameters(remove_duplicate=False))
    return run_on_cores(cluster.cpu_ids[:threads], lambda: _measure(network, library, lowered, stored, duration))


def _measure(
    network: Network, library: Path, lowered: LoweredStage, stored: Mapping[str, torch.Tensor], duration: Duration
) -> Timing:
    machine = relax.VirtualMachine(tvm.runtime.load_module(str(library)), tvm.cpu())
    weights = _prepared_weights(machine, lowered, stored)
    arguments = [*(_tensor(value) for value in network.inputs), *weights]
    _check(network, machine["main"](*arguments))
    instrument = _Instrument({kernel.name: kernel for kernel in lowered.kernels}, frozenset(weights))
    machine.set_instrument(tvm.runtime.convert(instrument))
    instrument.notes_calls = True
    machine["main"](*arguments)
    instrument.notes_calls = False
    times, interrupted = _shortest_times(lambda: machine["main"](*arguments), instrument, duration)
    calls = [KernelCall(*call, time_us=us) for call, us in zip(instrument.calls, times, strict=True)]
    return Timing(calls, interrupted)


def _prepared_weights(machine: Any, lowered: LoweredStage, stored: Mapping[str, torch.Tensor]) -> list[Any]:
    prepared = []
    for argument in lowered.weight_arguments:
        tensors = [_tensor(stored[name]) for name in argument.weights]
        prepared.append(machine[argument.function](*tensors)[0] if argument.function else tensors[0])
    return prepared


def _tensor(value: torch.Tensor) -> Any:
    return tvm.runtime.tensor(value.detach().numpy())


def _check(network: Network, results: Any) -> None:
    with torch.inference_mode():
        expected = [value.numpy() for value in tree_leaves(network.module(*network.inputs))]
    errors = [relative_error(ours.numpy(), theirs) for ours, theirs in zip(results, expected, strict=True)]
    if not max(errors) <= LARGEST_ERROR:
        raise LoweringError(f"It computes something else than eager PyTorch: the relative error is {max(errors):.1e}.")


def _shortest_times(
    run: Callable[[], object], instrument: _Instrument, duration: Duration
) -> tuple[list[float], float]:
    """Return the shortest time of each call, in us, and the share of interrupted runs."""
    for _ in range(WARM_UP_RUNS):
        run()
    rows: list[list[int]] = []
    interrupted = 0
    end = time.perf_counter() + duration.seconds
    gc.collect()
    gc.disable()
    try:
        while len(rows) < duration.runs or time.perf_counter() < end:
            instrument.times_ns.clear()
            switches = _involuntary_switches()
            run()
            interrupted += _involuntary_switches() > switches
            rows.append(list(instrument.times_ns))
    finally:
        gc.enable()
    return [min(column) / 1e3 for column in zip(*rows, strict=True)], interrupted / len(rows)


def _involuntary_switches() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw
