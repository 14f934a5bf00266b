"""Measuring a network on one core configuration: on this machine, or on a board behind TVM's RPC."""

from __future__ import annotations

import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cospipe.backends.profiling.core_state import clocks_mhz, governor, mean_clocks_mhz
from cospipe.backends.profiling.kernel_layers import KernelLayer, NamedKernel, kernel_layers
from cospipe.backends.profiling.networks import PreparedNetwork, compile_whole
from cospipe.backends.profiling.pinned_thread import run_on_cores
from cospipe.backends.profiling.rounds import Timing, time_rounds
from cospipe.backends.tvm.kernel_calls import KernelCall
from cospipe.backends.tvm.kernel_clock import KernelClock, build_clock
from cospipe.backends.tvm.kernel_descriptions import GENERIC_ELEMENTWISE
from cospipe.backends.tvm.kernels import channel_gather
from cospipe.backends.tvm.lower import LoweredStage
from cospipe.backends.tvm.sessions import LocalSession, RemoteSession, Session
from cospipe.backends.tvm.timed_stage import TimedStage
from cospipe.ir.errors import CospipeError, RemoteError, first_line
from cospipe.ir.plan import CoreConfiguration
from cospipe.ir.profile import ConfigurationProfile, KernelTime
from cospipe.ir.soc import Soc

_COPYING = frozenset({channel_gather.NAME, GENERIC_ELEMENTWISE})


@dataclass(frozen=True)
class Measured:
    """What a machine tells of one network on some of its cores.

    Parameters
    ----------
    timing : Timing
        Of the network and its kernels.
    clock_mhz : tuple of float
        Mean clock of each core; empty when the machine does not tell.
    governor : str or None
        What decides these clocks.
    board : str or None
        Which of several boards it was.
    """

    timing: Timing
    clock_mhz: tuple[float, ...]
    governor: str | None
    board: str | None = None


@dataclass(frozen=True)
class Measurement:
    """A compiled network that waits to be timed; it can be pickled.

    Parameters
    ----------
    title : str
        What is measured, for errors.
    library : Path
        What was compiled.
    lowered : LoweredStage
        What the compiler tells of it.
    inputs : tuple of Tensor
        One frame.
    weights : dict of str to Tensor
        The network's weights by name.
    expected : tuple of array
        What eager PyTorch computes of the frame.
    cpu_ids : tuple of int
        Cores that its kernels share.
    rounds : int
        Undisturbed rounds to time.
    """

    title: str
    library: Path
    lowered: LoweredStage
    inputs: tuple[torch.Tensor, ...]
    weights: dict[str, torch.Tensor]
    expected: tuple[NDArray[Any], ...]
    cpu_ids: tuple[int, ...]
    rounds: int


class Machine(ABC):
    """Where networks are measured; its cores are those of an SoC description."""

    @abstractmethod
    def run(self, measurement: Measurement, clock: Path) -> Measured:
        """Time a network; ``clock`` is the clock's library for this machine."""


@dataclass(frozen=True)
class ThisMachine(Machine):
    """The machine that this process runs on; ``real_time`` keeps other programs off the cores meanwhile."""

    real_time: bool = False

    def run(self, measurement: Measurement, clock: Path) -> Measured:
        """Time a network in a thread of its own."""
        session = LocalSession()
        work = partial(time_network, session, KernelClock(session, clock), measurement)
        return run_on_cores(measurement.cpu_ids, work, self.real_time)


@dataclass(frozen=True)
class Board(Machine):
    """A board with TVM's RPC server; every call is a connection, which is a process of its own there."""

    host: str
    port: int
    key: str

    def run(self, measurement: Measurement, clock: Path) -> Measured:
        """Time a network in a new process on the board."""
        session = RemoteSession(self.host, self.port, self.key)
        try:
            remote_clock = KernelClock(session, clock)
            remote_clock.use_cores(measurement.cpu_ids)
            return time_network(session, remote_clock, measurement)
        except CospipeError:
            raise
        except Exception as error:
            raise RemoteError(
                f"The board at {session.address} stopped in the middle of a measurement ({first_line(error)}); what was"
                " measured before is kept: start its server again and repeat the command."
            ) from error


def measure(
    network: PreparedNetwork,
    soc: Soc,
    configuration: CoreConfiguration,
    machine: Machine,
    rounds: int,
    progress: Callable[[str], None] = lambda _step: None,
) -> ConfigurationProfile:
    """Compile a network for a core configuration, check what it computes, and time its kernels.

    Parameters
    ----------
    network : PreparedNetwork
        The network.
    soc : Soc
        The board; its core ids are used.
    configuration : CoreConfiguration
        Which cores.
    machine : Machine
        Where they are.
    rounds : int
        Undisturbed rounds to time, see :func:`~cospipe.backends.profiling.rounds.time_rounds`.
    progress : callable
        Is told in a few words what is done next.

    Raises
    ------
    LoweringError
        When the network cannot be compiled or computes something else than eager PyTorch.
    RemoteError
        When the board cannot be reached or does not have these cores.
    """
    with tempfile.TemporaryDirectory(prefix="cospipe-profile-") as folder:
        progress("compiling")
        measurement = prepare_measurement(network, soc, configuration, Path(folder), rounds)
        clock_library = build_clock(Path(folder), soc.architecture)
        progress("timing")
        measured = machine.run(measurement, clock_library)
    return configuration_profile(network, measurement, measured)


def prepare_measurement(
    network: PreparedNetwork, soc: Soc, configuration: CoreConfiguration, folder: Path, rounds: int
) -> Measurement:
    """Compile a network for a core configuration into a folder.

    Raises
    ------
    LoweringError
        When it cannot be compiled.
    """
    library = folder / f"{configuration.cluster}-{configuration.cores}.so"
    stored = {name: value.detach() for name, value in network.graph_module.named_parameters(remove_duplicate=False)}
    return Measurement(
        title=f"{network.name} on {configuration}",
        library=library,
        lowered=compile_whole(network, soc, configuration, library),
        inputs=network.inputs,
        weights=stored,
        expected=network.expected,
        cpu_ids=soc.cluster(configuration.cluster).cpu_ids[: configuration.cores],
        rounds=rounds,
    )


def configuration_profile(
    network: PreparedNetwork, measurement: Measurement, measured: Measured
) -> ConfigurationProfile:
    """Return what was measured of a network as profiles hold it."""
    layers = kernel_layers(network.graph_module.graph, named_kernels(measurement.lowered))
    return ConfigurationProfile(
        cpu_ids=measurement.cpu_ids,
        clock_mhz=measured.clock_mhz,
        governor=measured.governor,
        measured_at=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        kernels=tuple(_kernel_time(layer, measured.timing) for layer in layers),
        network_us=round(float(np.median(measured.timing.of_network())), 3),
        network_runs=int(measured.timing.is_network_clean.sum()),
        board=measured.board,
    )


def time_network(session: Session, clock: KernelClock, measurement: Measurement) -> Measured:
    """Check what a compiled network computes, and time its kernels; the session has its cores already."""
    m, cpu_ids = measurement, measurement.cpu_ids
    stage = TimedStage(session, clock, m.library, m.lowered, m.inputs, m.weights)
    stage.check(m.expected)
    before = clocks_mhz(cpu_ids, clock.read)
    timing = time_rounds(stage, m.rounds)
    after = clocks_mhz(cpu_ids, clock.read)
    return Measured(timing, mean_clocks_mhz(before, after), governor(cpu_ids, clock.read))


def named_kernels(lowered: LoweredStage) -> list[NamedKernel]:
    """Return the kernels that a compiled network calls, as :func:`kernel_layers` takes them."""
    kinds = {kernel.name: kernel.kind for kernel in lowered.kernels}
    return [_named(call, kinds.get(call.kernel, "")) for call in lowered.calls]


def _named(call: KernelCall, kind: str) -> NamedKernel:
    return NamedKernel(call.nodes, only_copies=kind in _COPYING and len(call.nodes) == 1)


def _kernel_time(layer: KernelLayer, timing: Timing) -> KernelTime:
    times_us = timing.of_kernels(layer.kernels)
    return KernelTime(
        nodes=layer.nodes,
        layer=layer.layer,
        median_us=round(float(np.median(times_us)), 3),
        p90_us=round(float(np.percentile(times_us, 90)), 3),
        runs=len(times_us),
    )
