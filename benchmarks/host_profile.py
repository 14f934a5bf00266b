"""Profiling benchmark networks on this machine, as ``cospipe profile`` does it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from models import load_network

from cospipe.backends.profiling.measuring import ThisMachine, measure
from cospipe.backends.profiling.networks import PreparedNetwork, prepare_network
from cospipe.backends.profiling.profile_file import Measure, ProfileFile
from cospipe.ir.latency import LatencySource
from cospipe.ir.plan import CoreConfiguration
from cospipe.ir.profile import ConfigurationProfile, NetworkProfile
from cospipe.ir.soc import Soc

Progress = Callable[[str], None]


def profile_networks(
    specs: Sequence[str], soc: Soc, file: Path, rounds: int, machine: ThisMachine, progress: Progress
) -> list[NetworkProfile]:
    """Profile networks on every core configuration of this machine; what the file holds is not measured again.

    Parameters
    ----------
    specs : sequence of str
        ``package.module:factory``.
    soc : Soc
        This machine.
    file : Path
        The profile.
    rounds : int
        Undisturbed rounds to time.
    machine : ThisMachine
        How this machine is measured.
    progress : callable
        Is told what is done next.
    """
    profile_file = ProfileFile(file, soc, soc.title, LatencySource.MEASURED)
    found = []
    for spec in specs:
        network = load_network(spec, (), keep_weights=False)
        prepared = prepare_network(spec, network.module, network.inputs)
        missing = profile_file.missing(prepared.fingerprint, soc.configurations())
        profile_file.measure(spec, prepared.fingerprint, missing, _measuring(prepared, soc, rounds, machine, progress))
        written = profile_file.profile.network(prepared.fingerprint)
        assert written is not None
        found.append(written)
    return found


def _measuring(network: PreparedNetwork, soc: Soc, rounds: int, machine: ThisMachine, progress: Progress) -> Measure:
    def measured(cores: CoreConfiguration) -> ConfigurationProfile:
        def tell(step: str) -> None:
            progress(f"{network.name} on {cores}: {step}")

        return measure(network, soc, cores, machine, rounds, tell)

    return measured
