"""Profiling networks into a file: what is in it already is not measured again, and every result is kept at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Literal

from cospipe.ir.errors import UsageError, several
from cospipe.ir.latency import CPU_KERNELS, LatencySource
from cospipe.ir.measured_latency import board_problems
from cospipe.ir.plan import CoreConfiguration
from cospipe.ir.profile import ConfigurationProfile, NetworkProfile, Profile, read_profile, write_profile
from cospipe.ir.soc import Soc

Measure = Callable[[CoreConfiguration], ConfigurationProfile]
"""Returns what a network takes on a core configuration."""


@dataclass
class ProfileFile:
    """A profile that is written after every result.

    Parameters
    ----------
    path : Path
        The file; one that exists is continued.
    soc : Soc
        The board.
    machine : str
        What the machine calls itself.
    source : LatencySource
        ``measured`` or ``emulated``.

    Raises
    ------
    UsageError
        When the file is no profile, or one of another board, source or version of the compiler.
    """

    path: Path
    soc: Soc
    machine: str
    source: LatencySource
    profile: Profile = field(init=False)

    def __post_init__(self) -> None:
        new = _empty_profile(self.soc, self.machine, self.source)
        self.profile = read_profile(self.path) if self.path.exists() else new
        if problems := [*board_problems(self.profile, self.soc, self.source), *_version_problems(self.profile, new)]:
            raise UsageError(
                several(f"{self.path} cannot be continued; write another file, or move this one away", problems)
            )

    def missing(self, fingerprint: str, wanted: Sequence[CoreConfiguration]) -> list[CoreConfiguration]:
        """Return the core configurations that the file does not hold yet for a network."""
        network = self.profile.network(fingerprint)
        known = network.configurations if network else {}
        return [configuration for configuration in wanted if str(configuration) not in known]

    def add(self, network: NetworkProfile) -> None:
        """Add results and write the file."""
        self.profile = self.profile.with_network(network)
        write_profile(self.profile, self.path)

    def measure(
        self, model: str, fingerprint: str, configurations: Sequence[CoreConfiguration], measure: Measure
    ) -> None:
        """Measure a network on some core configurations, and write the file after each."""
        for configuration in configurations:
            self.add_configuration(model, fingerprint, configuration, measure(configuration))

    def add_configuration(
        self, model: str, fingerprint: str, configuration: CoreConfiguration, measured: ConfigurationProfile
    ) -> None:
        """Add what was measured of a network on one core configuration, and write the file."""
        configurations = {str(configuration): measured}
        self.add(NetworkProfile(model=model, fingerprint=fingerprint, configurations=configurations))


def _empty_profile(soc: Soc, machine: str, source: LatencySource) -> Profile:
    written: Literal["measured", "emulated"] = "emulated" if source is LatencySource.EMULATED else "measured"
    return Profile(
        source=written,
        soc=soc.name,
        machine=machine,
        core_types={cluster.name: cluster.core_type for cluster in soc.clusters},
        kernel_library=CPU_KERNELS,
        cospipe_version=version("cospipe"),
        tvm_version=version("apache-tvm"),
    )


def _version_problems(known: Profile, new: Profile) -> list[str]:
    """Return what was another version when a profile was begun: other kernels take other times."""
    keys = ("kernel_library", "cospipe_version", "tvm_version")
    return [
        f"its {key} is {getattr(known, key)}, here it is {getattr(new, key)}"
        for key in keys
        if getattr(known, key) != getattr(new, key)
    ]


def parse_configurations(text: str, soc: Soc) -> tuple[CoreConfiguration, ...]:
    """Read ``big:1+big:4+little:4``: core configurations to measure one after the other; all of a chip when empty.

    Raises
    ------
    UsageError
        When the chip does not have some of them; all are listed.
    """
    if not text:
        return soc.configurations()
    wanted = [CoreConfiguration.parse(part.strip()) for part in text.split("+")]
    known = set(soc.configurations())
    if unknown := [str(configuration) for configuration in wanted if configuration not in known]:
        listed = ", ".join(map(str, soc.configurations()))
        raise UsageError(f"{soc.name} has no {' and no '.join(unknown)}; its core configurations are {listed}.")
    return tuple(dict.fromkeys(wanted))
