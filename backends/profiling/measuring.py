"""Measuring a network on one core configuration: on this machine, or on a board behind TVM's RPC."""

from __future__ import annotations

import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

import numpy as np

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

Work = Callable[[Session, KernelClock], "_Measured"]


@dataclass(frozen=True)
class _Measured:
    timing: Timing
    clock_mhz: tuple[float, ...]
    governor: str | None


class Machine(ABC):
    """Where networks are measured; its cores are those of an SoC description."""

    @abstractmethod
    def run(self, cpu_ids: Sequence[int], clock: Path, work: Work) -> _Measured:
        """Run a function whose kernels share these cores; ``clock`` is the clock's library for this machine."""


@dataclass(frozen=True)
class ThisMachine(Machine):
    """The machine that this process runs on; ``real_time`` keeps other programs off the cores meanwhile."""

    real_time: bool = False

    def run(self, cpu_ids: Sequence[int], clock: Path, work: Work) -> _Measured:
        """Run a function in a thread of its own."""
        session = LocalSession()
        return run_on_cores(cpu_ids, lambda: work(session, KernelClock(session, clock)), self.real_time)


@dataclass(frozen=True)
class Board(Machine):
    """A board with TVM's RPC server; every call is a connection, which is a process of its own there."""

    host: str
    port: int
    key: str

    def run(self, cpu_ids: Sequence[int], clock: Path, work: Work) -> _Measured:
        """Run a function against a new process on the board."""
        session = RemoteSession(self.host, self.port, self.key)
        try:
            remote_clock = KernelClock(session, clock)
            remote_clock.use_cores(cpu_ids)
            return work(session, remote_clock)
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
    cpu_ids = soc.cluster(configuration.cluster).cpu_ids[: configuration.cores]
    with tempfile.TemporaryDirectory(prefix="cospipe-profile-") as folder:
        library = Path(folder) / f"{configuration.cluster}-{configuration.cores}.so"
        progress("compiling")
        lowered = compile_whole(network, soc, configuration, library)
        clock_library = build_clock(Path(folder), soc.architecture)
        progress("timing")

        def work(session: Session, clock: KernelClock) -> _Measured:
            return _timed(network, lowered, library, session, clock, cpu_ids, rounds)

        measured = machine.run(cpu_ids, clock_library, work)
    layers = kernel_layers(network.graph_module.graph, named_kernels(lowered))
    return ConfigurationProfile(
        cpu_ids=cpu_ids,
        clock_mhz=measured.clock_mhz,
        governor=measured.governor,
        measured_at=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        kernels=tuple(_kernel_time(layer, measured.timing) for layer in layers),
        network_us=round(float(np.median(measured.timing.of_network())), 3),
        network_runs=int(measured.timing.is_network_clean.sum()),
    )


def _timed(
    network: PreparedNetwork,
    lowered: LoweredStage,
    library: Path,
    session: Session,
    clock: KernelClock,
    cpu_ids: Sequence[int],
    rounds: int,
) -> _Measured:
    stored = dict(network.graph_module.named_parameters(remove_duplicate=False))
    stage = TimedStage(session, clock, library, lowered, network.inputs, stored)
    stage.check(network.expected)
    before = clocks_mhz(cpu_ids, clock.read)
    timing = time_rounds(stage, rounds)
    after = clocks_mhz(cpu_ids, clock.read)
    return _Measured(timing, mean_clocks_mhz(before, after), governor(cpu_ids, clock.read))


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
