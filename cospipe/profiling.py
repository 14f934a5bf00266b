"""``profile``: measured or emulated times of the kernels of networks, in one file a board."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from cospipe.backends.profiling.farm_measuring import farm_of, measure_on_farm
from cospipe.backends.profiling.machine import board_at, name_of_machine, this_machine_as
from cospipe.backends.profiling.measuring import Machine, measure
from cospipe.backends.profiling.networks import PreparedNetwork, prepare_network
from cospipe.backends.profiling.profile_file import ProfileFile, parse_configurations
from cospipe.backends.tvm.farm.farm import Farm, Report
from cospipe.backends.tvm.target import check_can_bundle
from cospipe.input_options import InputShapes
from cospipe.ir.latency import LatencySource
from cospipe.ir.plan import CoreConfiguration
from cospipe.ir.profile import ConfigurationProfile
from cospipe.ir.soc import Soc, load_soc
from cospipe.models import load_model

Show = Callable[[int, int, str], None]
"""Is told how many of how many measurements are done, and what is done next."""


@dataclass(frozen=True)
class ProfileRequest:
    """What to profile; the options of ``cospipe profile``.

    Parameters
    ----------
    models : tuple of str
        ``package.module:factory``, or ``.pt2`` or ``.onnx`` files.
    shapes : list of list of int, or dict of str to list of int, optional
        Shapes of the inputs, for ONNX files also by name; the model's own when not given.
    soc : str
        Name of an SoC, ``host``, or a TOML file.
    output : Path
        The board's profile; one that exists is continued.
    rpc, key : str
        ``HOST:PORT`` of the board's RPC server and its key; empty for this machine.
    rpc_tracker : str
        ``HOST[:PORT]`` of a tracker; any of its boards with this key is then the board.
    emulate : bool
        Emulate instead of measuring.
    cores : str
        Core configurations, ``big:1+big:4``; empty for all.
    rounds : int
        Undisturbed rounds to time.
    again : bool
        Measure anew what the file holds already.
    input_values : mapping of str to number, optional
        Inputs of ONNX files that always have this value.
    """

    models: tuple[str, ...]
    shapes: InputShapes
    soc: str
    output: Path
    rpc: str = ""
    key: str = ""
    emulate: bool = False
    cores: str = ""
    rounds: int = 30
    again: bool = False
    input_values: Mapping[str, float | Sequence[float]] = field(default_factory=dict)
    rpc_tracker: str = ""


@dataclass(frozen=True)
class Profiled:
    """One network on one core configuration."""

    model: str
    cores: str
    measured: ConfigurationProfile
    is_new: bool

    def row(self) -> dict[str, Any]:
        """Return the figures, ready for JSON."""
        return {
            "model": self.model,
            "cores": self.cores,
            "layers": len(self.measured.kernels),
            "layers_us": round(sum(kernel.median_us for kernel in self.measured.kernels), 3),
            "network_us": self.measured.network_us,
            "network_runs": self.measured.network_runs,
            "clock_mhz": list(self.measured.clock_mhz),
            "governor": self.measured.governor,
            "cpu_ids": list(self.measured.cpu_ids),
            "measured_at": self.measured.measured_at,
            "is_new": self.is_new,
        }


def run_profile(
    request: ProfileRequest,
    show: Show = lambda _done, _total, _what: None,
    report: Report = lambda _board, _problem: None,
) -> list[Profiled]:
    """Profile networks; the file is written after every core configuration of every network.

    Parameters
    ----------
    request : ProfileRequest
        What to profile.
    show : callable
        Is told of progress.
    report : callable
        Is told of boards behind a tracker that fail or are left out, and why; called from several threads.

    Returns
    -------
    list of Profiled
        What the file holds of these networks and core configurations, in order.

    Raises
    ------
    UsageError
        When a model, the SoC or a core configuration does not exist, the file is of another board, or this machine is
        not the board.
    RemoteError
        When the board cannot be reached.
    CaptureError, UnsupportedModelError, LoweringError
        When a network cannot be compiled.
    """
    soc = load_soc(request.soc)
    check_can_bundle(soc)
    configurations = parse_configurations(request.cores, soc)
    models = [(name, *load_model(name, request.shapes, request.input_values)) for name in request.models]
    with ExitStack() as opened:
        machine = _machine(request, soc, configurations, report, opened)
        return _profile_models(request, soc, configurations, models, machine, show)


def _profile_models(
    request: ProfileRequest,
    soc: Soc,
    configurations: Sequence[CoreConfiguration],
    models: Sequence[tuple[str, Any, Any]],
    machine: Machine | Farm | None,
    show: Show,
) -> list[Profiled]:
    source = LatencySource.EMULATED if request.emulate else LatencySource.MEASURED
    file = ProfileFile(request.output, soc, name_of_machine(machine, soc), source)
    steps = _Steps(show, len(models) * len(configurations))
    profiled: list[Profiled] = []
    for name, model, inputs in models:
        steps.tell(f"{name}: capturing")
        network = prepare_network(name, model, _tuple(inputs))
        wanted = configurations if request.again else file.missing(network.fingerprint, configurations)
        if machine is None:
            _emulate(network, soc, wanted, file, steps)
        elif isinstance(machine, Farm):
            _measure_on_farm(network, soc, wanted, machine, request.rounds, file, steps)
        else:
            _measure(network, soc, wanted, machine, request.rounds, file, steps)
        steps.finish(len(configurations) - len(wanted))
        profiled += _results(network, file, configurations, set(wanted))
    return profiled


class _Steps:
    """Counts what is done."""

    def __init__(self, show: Show, total: int) -> None:
        self._show, self._total, self._done = show, total, 0

    def tell(self, what: str) -> None:
        self._show(self._done, self._total, what)

    def finish(self, count: int) -> None:
        self._done += count


def _machine(
    request: ProfileRequest,
    soc: Soc,
    configurations: Sequence[CoreConfiguration],
    report: Report,
    opened: ExitStack,
) -> Machine | Farm | None:
    if request.emulate:
        return None
    if request.rpc_tracker:
        return opened.enter_context(farm_of(soc, configurations, request.rpc_tracker, request.key, report))
    return board_at(request.rpc, request.key) if request.rpc else this_machine_as(soc, configurations)


def _measure(
    network: PreparedNetwork,
    soc: Soc,
    configurations: Sequence[CoreConfiguration],
    machine: Machine,
    rounds: int,
    file: ProfileFile,
    steps: _Steps,
) -> None:
    def timed(configuration: CoreConfiguration) -> ConfigurationProfile:
        what = f"{network.name} on {configuration}"
        measured = measure(network, soc, configuration, machine, rounds, lambda step: steps.tell(f"{what}: {step}"))
        steps.finish(1)
        return measured

    file.measure(network.name, network.fingerprint, configurations, timed)


def _measure_on_farm(
    network: PreparedNetwork,
    soc: Soc,
    configurations: Sequence[CoreConfiguration],
    farm: Farm,
    rounds: int,
    file: ProfileFile,
    steps: _Steps,
) -> None:
    for configuration, measured in measure_on_farm(network, soc, configurations, farm, rounds, steps.tell):
        file.add_configuration(network.name, network.fingerprint, configuration, measured)
        steps.finish(1)


def _emulate(
    network: PreparedNetwork, soc: Soc, configurations: Sequence[CoreConfiguration], file: ProfileFile, steps: _Steps
) -> None:
    from cospipe.backends.emulator.emulated_profile import counter_for, emulate

    counter = counter_for(soc, configurations)

    def emulated(configuration: CoreConfiguration) -> ConfigurationProfile:
        what = f"{network.name} on {configuration}"
        run = emulate(network, soc, configuration, counter, lambda step: steps.tell(f"{what}: {step}"))
        steps.finish(1)
        return run.profile()

    file.measure(network.name, network.fingerprint, configurations, emulated)


def _results(
    network: PreparedNetwork,
    file: ProfileFile,
    configurations: Sequence[CoreConfiguration],
    new: set[CoreConfiguration],
) -> list[Profiled]:
    written = file.profile.network(network.fingerprint)
    assert written is not None  # at least one configuration was wanted
    return [Profiled(written.model, str(c), written.configurations[str(c)], c in new) for c in configurations]


def _tuple(inputs: tuple[torch.Tensor, ...] | torch.Tensor) -> tuple[torch.Tensor, ...]:
    return (inputs,) if isinstance(inputs, torch.Tensor) else tuple(inputs)
