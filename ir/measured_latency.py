"""The latency model that looks up what was measured, or emulated, of this very network on this board."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from cospipe.ir.analytic_latency import AnalyticLatencyModel
from cospipe.ir.errors import UsageError, several
from cospipe.ir.latency import LatencyModel, LatencyPrediction, LatencySource
from cospipe.ir.layer import LayerDescriptor
from cospipe.ir.plan import CoreConfiguration
from cospipe.ir.profile import NetworkProfile, Profile, read_profile
from cospipe.ir.soc import Soc


@dataclass(frozen=True)
class MeasuredLatencyModel(LatencyModel):
    """Times of single nodes of one network, from its profile.

    A node has the time of the kernels whose layer it heads; a node that another one's kernel computes costs nothing.
    What the network as a whole took beyond its kernels (starting them, and what stands between them) is shared among
    the nodes in proportion to their times, so that the times of all nodes add up to the time of the network. When the
    machine was too busy to measure the whole undisturbed, they add up to the kernels alone.

    ``held_out_error`` stays empty: nothing was held out, these are the layers themselves.

    Parameters
    ----------
    soc : Soc
        The chip.
    kernel_library : str
        Name of the kernels that were measured.
    source : LatencySource
        ``measured`` or ``emulated``.
    network : NetworkProfile
        The measured network; every core configuration of the chip is in it.
    """

    soc: Soc
    kernel_library: str
    source: LatencySource
    network: NetworkProfile
    _times_us: dict[CoreConfiguration, dict[str, float]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        times_us = {
            CoreConfiguration.parse(text): _node_times_us(self.network, text) for text in self.network.configurations
        }
        object.__setattr__(self, "_times_us", times_us)

    def predict(
        self, layer: LayerDescriptor, configuration: CoreConfiguration, node: str | None = None
    ) -> LatencyPrediction:
        """Return the time of a node of the network; the share that follows the clock is the analytic model's.

        Raises
        ------
        UsageError
            When no node is named, the chip does not have these cores, or the network was not measured on them.
        """
        if node is None:
            raise UsageError("A measured time belongs to a node of its network; name the node.")
        self.soc.check_cores([configuration])
        if configuration not in self._times_us:
            raise UsageError(_missing_text(self.network.model, [configuration], self.soc.name, self.source))
        clock_bound = AnalyticLatencyModel(self.soc).predict(layer, configuration).clock_bound
        time_us = self._times_us[configuration].get(node, 0.0)
        return LatencyPrediction(time_us, self.source, clock_bound=clock_bound)


def _node_times_us(network: NetworkProfile, configuration: str) -> dict[str, float]:
    measured = network.configurations[configuration]
    in_kernels_us = sum(kernel.median_us for kernel in measured.kernels)
    factor = measured.network_us / in_kernels_us if in_kernels_us and measured.network_runs else 1.0
    times_us: dict[str, float] = defaultdict(float)
    for kernel in measured.kernels:
        times_us[kernel.nodes[0]] += kernel.median_us * factor
    return times_us


def measured_model(soc: Soc, source: LatencySource, profile: str | Path, fingerprint: str) -> MeasuredLatencyModel:
    """Return the model of one network from a profile.

    Parameters
    ----------
    soc : Soc
        The chip.
    source : LatencySource
        ``measured`` or ``emulated``: what the profile must hold.
    profile : str or Path
        The file.
    fingerprint : str
        Of the network's graph, see :func:`~cospipe.ir.graph_fingerprint.graph_fingerprint`.

    Raises
    ------
    UsageError
        When the profile is of another board, does not hold this network, or lacks core configurations of the chip; the
        message gives the command that measures what is missing.
    """
    if not str(profile):
        raise UsageError(
            f"The latency source {source.value!r} needs a profile of the network; name the file that"
            f" `{_command('MODEL', soc.name, source)}` writes."
        )
    read = read_profile(profile)
    if problems := board_problems(read, soc, source):
        raise UsageError(several(f"{profile} is a profile of something else", problems))
    network = read.network(fingerprint)
    if network is None:
        raise UsageError(_other_network_text(read, str(profile), soc.name, source))
    if missing := [c for c in soc.configurations() if str(c) not in network.configurations]:
        raise UsageError(f"{profile}: {_missing_text(network.model, missing, soc.name, source, str(profile))}")
    return MeasuredLatencyModel(soc, read.kernel_library, source, network)


def board_problems(profile: Profile, soc: Soc, source: LatencySource) -> list[str]:
    """Return why a profile is not one of this board from this source; empty when it is."""
    problems = []
    if profile.source != source.value:
        problems.append(f"its times are {profile.source}, not {source.value}")
    if profile.soc != soc.name:
        problems.append(f"it is of the board {profile.soc!r}, not {soc.name!r}")
    elif soc.name == "host" and profile.machine != soc.title:
        problems.append(f"it is of another machine: {profile.machine}, not {soc.title}")
    core_types = {cluster.name: cluster.core_type for cluster in soc.clusters}
    if profile.core_types != core_types:
        problems.append(f"its cores are {_cores_text(profile.core_types)}, those of the SoC {_cores_text(core_types)}")
    return problems


def _cores_text(core_types: dict[str, str]) -> str:
    return ", ".join(f"{cluster} {core_type}" for cluster, core_type in core_types.items()) or "none"


def _other_network_text(profile: Profile, file: str, soc: str, source: LatencySource) -> str:
    known = ", ".join(dict.fromkeys(network.model for network in profile.networks)) or "none yet"
    return (
        f"{file} does not hold this network: no graph in it has the same operations and shapes. Its networks are:"
        f" {known}. Add this one with: {_command('MODEL', soc, source)} -o {file}"
    )


def _missing_text(
    model: str, missing: list[CoreConfiguration], soc: str, source: LatencySource, file: str = "FILE"
) -> str:
    cores = "+".join(map(str, missing))
    return (
        f"{model} was not {source.value} on {', '.join(map(str, missing))}. Add it with:"
        f" {_command(model, soc, source)} --cores {cores} -o {file}"
    )


def _command(model: str, soc: str, source: LatencySource) -> str:
    return f"cospipe profile {model} --soc {soc}{' --emulate' if source is LatencySource.EMULATED else ''}"
