"""Profiles: measured (or emulated) times of every kernel of networks on the core configurations of one board."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from cospipe.ir.errors import UsageError, first_line, several
from cospipe.ir.layer import LayerDescriptor
from cospipe.ir.plan import CoreConfiguration

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

FORMAT_VERSION: Final = 1

Microseconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Megahertz = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class KernelTime(_Part):
    """One kernel call of a compiled network.

    ``nodes`` are the graph nodes it computes, the one that ``layer`` describes first; ``layer`` counts the bytes that
    fused layers read in addition.
    """

    nodes: tuple[str, ...] = Field(min_length=1)
    layer: LayerDescriptor
    median_us: Microseconds
    p90_us: Microseconds
    runs: Annotated[int, Field(ge=1)]


class ConfigurationProfile(_Part):
    """Every kernel of one network on one core configuration."""

    cpu_ids: tuple[int, ...]
    """Cores the threads were pinned to; empty when emulated."""
    clock_mhz: tuple[Megahertz, ...] = ()
    """Clock of each of these cores, the mean of before and after; empty where the machine does not tell."""
    governor: str | None = None
    measured_at: str
    """UTC, ISO 8601."""
    kernels: tuple[KernelTime, ...] = Field(min_length=1)
    network_us: Microseconds
    """Median time of the whole network, measured without looking at single kernels."""
    network_runs: Annotated[int, Field(ge=0)] = 1
    """Runs behind ``network_us`` that no other program disturbed; with none, on a busy machine, it is only a bound."""
    board: str | None = None
    """Which board of a farm it was measured on."""


class NetworkProfile(_Part):
    """One network on every configuration that was measured so far."""

    model: str
    fingerprint: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    """SHA-256 over the operations and shapes of its graph; weights do not count."""
    configurations: dict[str, ConfigurationProfile]
    """By core configuration, ``big:4``."""

    @field_validator("configurations")
    @classmethod
    def _written_as_configurations(
        cls, configurations: dict[str, ConfigurationProfile]
    ) -> dict[str, ConfigurationProfile]:
        for text in configurations:
            _read_configuration(text)
        return configurations


class Profile(_Part):
    """One board's file."""

    version: Literal[1] = FORMAT_VERSION
    source: Literal["measured", "emulated"]
    soc: str
    machine: str
    core_types: dict[str, str]
    """Core type of each cluster of the board, as LLVM calls it."""
    kernel_library: str
    cospipe_version: str
    tvm_version: str
    networks: tuple[NetworkProfile, ...] = ()

    @model_validator(mode="after")
    def _clusters_are_known(self) -> Profile:
        used = {text: _read_configuration(text) for network in self.networks for text in network.configurations}
        if unknown := [text for text, configuration in used.items() if configuration.cluster not in self.core_types]:
            raise ValueError(f"core_types says nothing of the clusters of {', '.join(unknown)}")
        return self

    def network(self, fingerprint: str) -> NetworkProfile | None:
        """Return the network with this graph; None when it is not in the file."""
        return next((network for network in self.networks if network.fingerprint == fingerprint), None)

    def with_network(self, measured: NetworkProfile) -> Profile:
        """Return a profile with further configurations of a network; those it has already are replaced."""
        known = self.network(measured.fingerprint)
        configurations = {**(known.configurations if known else {}), **measured.configurations}
        merged = measured.model_copy(update={"configurations": configurations})
        if known is None:
            return self.model_copy(update={"networks": (*self.networks, merged)})
        return self.model_copy(update={"networks": tuple(merged if n is known else n for n in self.networks)})

    def layers(self) -> Iterator[MeasuredLayer]:
        """Yield every kernel of every network as a row to fit models to."""
        for network in self.networks:
            for text, measured in network.configurations.items():
                configuration = CoreConfiguration.parse(text)
                for kernel in measured.kernels:
                    yield MeasuredLayer(
                        network.model,
                        kernel.layer,
                        self.core_types[configuration.cluster],
                        configuration,
                        kernel.median_us,
                    )


def _read_configuration(text: str) -> CoreConfiguration:
    try:
        return CoreConfiguration.parse(text)
    except UsageError as error:
        raise ValueError(str(error)) from error


@dataclass(frozen=True)
class MeasuredLayer:
    """One measured layer: what regressions are fitted to and checked against."""

    network: str
    layer: LayerDescriptor
    core_type: str
    configuration: CoreConfiguration
    time_us: float


def read_profile(path: str | Path) -> Profile:
    """Read a profile.

    Raises
    ------
    UsageError
        When there is no such file, or it is no profile; every mistake is listed.
    """
    path = Path(path)
    try:
        return Profile.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"The profile {str(path)!r} cannot be read: {error}.") from error
    except ValidationError as error:
        mistakes = [_mistake(e) for e in error.errors()]
        raise UsageError(several(f"{path} is not a profile this version reads", mistakes)) from error


def _mistake(error: ErrorDetails) -> str:
    place = ".".join(map(str, error["loc"])) or "file"
    return f"{place}: {error['msg'].removeprefix('Value error, ')}"


def write_profile(profile: Profile, path: str | Path) -> None:
    """Write a profile; the file is there whole or as it was before.

    Raises
    ------
    UsageError
        When it cannot be written.
    """
    path = Path(path)
    scratch = path.with_name(f".{path.name}.new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch.write_text(f"{profile.model_dump_json(indent=1)}\n", encoding="utf-8")
        scratch.replace(path)
    except OSError as error:
        raise UsageError(f"The profile {str(path)!r} cannot be written: {first_line(error)}.") from error
    finally:
        scratch.unlink(missing_ok=True)
