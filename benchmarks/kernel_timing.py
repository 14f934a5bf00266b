"""Times of the single kernels of a network on this machine, with what each kernel is and how many bytes it moves.

The clock is the one of ``cospipe profile``. Here the shortest time of all runs counts, which says what a kernel can do
on these cores; a profile says what it usually takes.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import tvm
from models import Network
from tvm import relax

from cospipe.backends.profiling.networks import PreparedNetwork, compile_whole, prepare_network
from cospipe.backends.profiling.pinned_thread import run_on_cores
from cospipe.backends.profiling.rounds import WARM_UP_ROUNDS, TimedNetwork, without_garbage_collection
from cospipe.backends.tvm.kernel_clock import KernelClock, build_clock
from cospipe.backends.tvm.kernel_descriptions import KernelDescription
from cospipe.backends.tvm.lower import LoweredStage
from cospipe.backends.tvm.sessions import LocalSession
from cospipe.backends.tvm.timed_stage import TimedStage
from cospipe.ir.plan import CoreConfiguration
from cospipe.ir.soc import Soc

Sizes = tuple[KernelDescription, int, int, int]
"""A kernel with the bytes of its inputs, weights and output."""


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


def time_kernels(network: Network, soc: Soc, threads: int, duration: Duration, folder: Path) -> Timing:
    """Compile a network for the fastest cores of this machine and time its kernels.

    Parameters
    ----------
    network : Network
        The network and one frame.
    soc : Soc
        This machine.
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
    prepared = prepare_network("", network.module, network.inputs)
    cluster, library = soc.clusters[0], folder / f"{threads}-threads.so"
    lowered = compile_whole(prepared, soc, CoreConfiguration(cluster.name, threads), library)
    clock = build_clock(folder, soc.architecture)
    return run_on_cores(cluster.cpu_ids[:threads], lambda: _measure(prepared, library, clock, lowered, duration))


def _measure(network: PreparedNetwork, library: Path, clock: Path, lowered: LoweredStage, duration: Duration) -> Timing:
    session = LocalSession()
    stored = dict(network.graph_module.named_parameters(remove_duplicate=False))
    stage = TimedStage(session, KernelClock(session, clock), library, lowered, network.inputs, stored)
    stage.check(network.expected)
    times_us, interrupted = _shortest_times(stage, duration)
    sizes = _sizes_of_calls(session, stage, library, lowered)
    return Timing([KernelCall(*size, time_us=us) for size, us in zip(sizes, times_us, strict=True)], interrupted)


def _shortest_times(stage: TimedNetwork, duration: Duration) -> tuple[list[float], float]:
    """Return the shortest time of each call, in us, and the share of interrupted runs."""
    for _ in range(WARM_UP_ROUNDS):
        stage.run_clocked()
    rows: list[list[float]] = []
    interrupted = 0
    end = time.perf_counter() + duration.seconds
    with without_garbage_collection():
        while len(rows) < duration.runs or time.perf_counter() < end:
            switches = stage.switches()
            rows.append(stage.run_clocked()[0])
            interrupted += stage.switches() > switches
    return [min(column) for column in zip(*rows, strict=True)], interrupted / len(rows)


def _sizes_of_calls(session: LocalSession, stage: TimedStage, library: Path, lowered: LoweredStage) -> list[Sizes]:
    """Run the network once more, with an instrument that looks at what each kernel is given."""
    machine = relax.VirtualMachine(session.load(library), session.device)
    instrument = _SizeInstrument({kernel.name: kernel for kernel in lowered.kernels}, frozenset(stage.weights))
    machine.set_instrument(tvm.runtime.convert(instrument))
    machine["main"](*stage.arguments)
    return instrument.calls


@dataclass
class _SizeInstrument:
    """Is called before and after everything the virtual machine calls; notes what takes part."""

    kernels: Mapping[str, KernelDescription]
    weights: frozenset[Any]
    calls: list[Sizes] = field(default_factory=list)

    def __call__(self, _function: Any, name: str, is_before: bool, _result: Any, *arguments: Any) -> int:
        if is_before and name in self.kernels:
            self.calls.append((self.kernels[name], *self._bytes(arguments)))
        return 0

    def _bytes(self, arguments: tuple[Any, ...]) -> tuple[int, int, int]:
        """Bytes of inputs, weights and output; a kernel writes its last argument."""
        *read, written = [argument for argument in arguments if isinstance(argument, tvm.runtime.Tensor)]
        weights = [tensor for tensor in read if tensor in self.weights]
        return _size(read) - _size(weights), _size(weights), _size([written])


def _size(tensors: list[Any]) -> int:
    return sum(prod(tensor.shape) * np.dtype(str(tensor.dtype)).itemsize for tensor in tensors)
