"""SoC descriptions: TOML files validated by pydantic, so that adding a board is adding a file."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator

from cospipe.ir.errors import SocError, UsageError, nearest, several
from cospipe.ir.plan import CoreConfiguration

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
Efficiency = Annotated[float, Field(gt=0, le=1)]
T = TypeVar("T", int, str)
_CALLED_BY: Mapping[int | str, str] = {"clusters": "name", "accelerators": "kind"}
"""Keys that errors and ``estimated`` call the tables of a list by."""


class _Described(BaseModel):
    """A table of the file: no unknown keys, no later changes."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def _repeated(values: Sequence[T]) -> list[T]:
    return sorted({value for value in values if values.count(value) > 1})


class Cluster(_Described):
    """Cores of one type that share a clock.

    ``parallel_efficiency[n - 1]`` is the speed of n cores working on one layer, divided by n times the speed of
    one; ``memory_bandwidth_gb_per_s[n - 1]`` is what n cores together read from DRAM.
    """

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
    core_type: str
    """What LLVM calls the core: ``cortex-a73``."""
    cores: Count
    cpu_ids: tuple[Annotated[int, Field(ge=0)], ...]
    clock_mhz: tuple[Positive, ...] = Field(min_length=1)
    """Clock levels, rising; predictions use the last."""
    simd_bytes: Count
    simd_registers: Count
    flop_per_cycle: Positive
    """Measured peak of FP32 operations a cycle and core (a multiply-add counts as two)."""
    kernel_efficiency: Efficiency = 1.0
    """Share of that peak which convolutions reach on one core; in-order cores reach less than out-of-order ones."""
    features: tuple[str, ...] = ()
    """LLVM target features, ``+neon``."""
    l1d_kib: Count
    l2_kib: Count
    l2_shared: bool = True
    """Whether the cores of the cluster share one L2 of that size, or have one each."""
    l3_kib: Annotated[int, Field(ge=0)] = 0
    memory_bandwidth_gb_per_s: tuple[Positive, ...]
    parallel_efficiency: tuple[Efficiency, ...]
    capacity: Annotated[int, Field(ge=1, le=1024)] | None = None
    """The kernel's ``cpu_capacity``."""
    dynamic_power_uw_per_mhz_v2: Positive | None = None
    core_power_mw: tuple[Positive, ...] = ()
    """Power that one busy core adds to the idle board, at each clock level; empty where nobody knows it."""

    @field_validator("core_power_mw")
    @classmethod
    def _one_power_a_level(cls, entries: tuple[float, ...], info: ValidationInfo) -> tuple[float, ...]:
        levels = len(info.data.get("clock_mhz", entries))
        if entries and len(entries) != levels:
            raise ValueError(f"{len(entries)} entries, expected {levels} (one a clock level)")
        return entries

    @field_validator("cpu_ids", "memory_bandwidth_gb_per_s", "parallel_efficiency")
    @classmethod
    def _one_entry_a_core(cls, entries: tuple[float, ...], info: ValidationInfo) -> tuple[float, ...]:
        cores = info.data.get("cores", len(entries))
        if len(entries) != cores:
            raise ValueError(f"{len(entries)} entries, expected {cores} (one a core)")
        return entries

    @field_validator("cpu_ids")
    @classmethod
    def _each_cpu_once(cls, cpu_ids: tuple[int, ...]) -> tuple[int, ...]:
        if twice := _repeated(cpu_ids):
            raise ValueError(f"names cpu {', '.join(map(str, twice))} twice")
        return cpu_ids

    @field_validator("clock_mhz")
    @classmethod
    def _clocks_rise(cls, levels: tuple[float, ...]) -> tuple[float, ...]:
        if list(levels) != sorted(set(levels)):
            raise ValueError("levels must rise")
        return levels

    @property
    def max_clock_mhz(self) -> float:
        """The highest clock level."""
        return self.clock_mhz[-1]

    @property
    def peak_gflops_per_core(self) -> float:
        """FP32 peak of one core at its highest clock."""
        return self.flop_per_cycle * self.max_clock_mhz / 1e3

    def configurations(self) -> tuple[CoreConfiguration, ...]:
        """Return every number of cores of this cluster: ``big:1`` to ``big:4``."""
        return tuple(CoreConfiguration(self.name, cores) for cores in range(1, self.cores + 1))


class Accelerator(_Described):
    """A GPU or NPU of the chip: plans with it are explored and shown; bundles run on the CPU only.

    Without ``gflops`` it is only listed.
    """

    name: str
    kind: Literal["gpu", "npu"]
    gflops: Positive | None = None
    """Rate that layers with a matrix product reach, 1e9 floating-point operations a second."""
    depthwise_gflops: Positive | None = None
    """The same of depthwise and grouped convolutions; that of the others when not given."""
    memory_bandwidth_gb_per_s: Positive | None = None
    launch_us: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    """Time to start each kernel."""
    hand_over_us: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    """Time to give it a frame and to fetch what it made of it, beside what is handed over between any stages."""
    power_mw: Positive | None = None
    """Power that it adds to the idle board when busy."""
    host_cluster: str | None = None
    """Cluster one core of which drives it and has no time for anything else; None when that costs nothing."""

    @model_validator(mode="after")
    def _both_rates(self) -> Accelerator:
        if self.gflops is not None and self.memory_bandwidth_gb_per_s is None:
            raise ValueError("gflops needs memory_bandwidth_gb_per_s beside it")
        return self


class Soc(_Described):
    """One chip on one board."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$")]
    title: str
    architecture: Literal["aarch64", "armv7", "x86_64"]
    clusters: tuple[Cluster, ...]
    """Fastest cores first."""
    accelerators: tuple[Accelerator, ...] = ()
    hand_over_us: Positive
    """Fixed cost of passing a frame to a stage on other cores: queue and wake-up."""
    hand_over_gb_per_s: Positive
    """Rate at which a stage reads tensors that another cluster wrote."""
    contention: Annotated[float, Field(ge=0, le=1)] = 0.15
    """How much longer everything takes for each further cluster or accelerator that works at the same time, as a share:
    clusters share DRAM. Pipelines measured on an RK3399Pro have a period 15 to 20 % above their largest stage alone."""
    spread_cost: Annotated[float, Field(ge=0, le=4)] = 0.26
    """How much longer a kernel takes than its rows alone when it is spread over several clusters, as a share: shared
    data crosses the bus between them. The median of five networks in ARM Compute Library on an RK3399Pro."""
    idle_power_mw: Positive | None = None
    """Power of the whole board when every core is idle."""
    sources: tuple[str, ...] = Field(min_length=1)
    estimated: tuple[str, ...] = ()
    """Keys whose values nobody measured: ``hand_over_us``, ``clusters.big.capacity``, ``accelerators.gpu.power_mw``."""

    @field_validator("clusters")
    @classmethod
    def _clusters_apart(cls, clusters: tuple[Cluster, ...]) -> tuple[Cluster, ...]:
        names = _repeated([cluster.name for cluster in clusters])
        cpu_ids = _repeated([cpu for cluster in clusters for cpu in cluster.cpu_ids])
        wrong = [] if clusters else ["at least one is needed"]
        wrong += [f"two clusters are called {name!r}" for name in names]
        wrong += [f"cpu {cpu} is in two clusters" for cpu in cpu_ids]
        if wrong:
            raise ValueError("; ".join(wrong))
        return clusters

    @field_validator("accelerators")
    @classmethod
    def _accelerators_apart(
        cls, accelerators: tuple[Accelerator, ...], info: ValidationInfo
    ) -> tuple[Accelerator, ...]:
        kinds = [accelerator.kind for accelerator in accelerators]
        wrong = [f"there are two of kind {kind!r}, which is what plans call them by" for kind in _repeated(kinds)]
        if "clusters" in info.data:  # its own mistakes are reported
            names = [cluster.name for cluster in info.data["clusters"]]
            wrong += [f"a cluster is called {kind!r} too" for kind in kinds if kind in names]
            hosts = [accelerator.host_cluster for accelerator in accelerators]
            wrong += [f"host_cluster {host!r} is no cluster" for host in hosts if host and host not in names]
        if wrong:
            raise ValueError("; ".join(wrong))
        return accelerators

    @field_validator("estimated")
    @classmethod
    def _estimated_exist(cls, keys: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        if "clusters" not in info.data:  # its own mistakes are reported
            return keys
        known = {f"clusters.{c.name}.{field}" for c in info.data["clusters"] for field in Cluster.model_fields}
        kinds = [accelerator.kind for accelerator in info.data.get("accelerators", ())]
        known |= {f"accelerators.{kind}.{field}" for kind in kinds for field in Accelerator.model_fields}
        known |= cls.model_fields.keys()
        if unknown := [repr(key) for key in keys if key not in known]:
            raise ValueError(f"no such key in this file: {', '.join(unknown)}")
        return keys

    @property
    def core_count(self) -> int:
        """Cores of all clusters."""
        return sum(cluster.cores for cluster in self.clusters)

    def cluster(self, name: str) -> Cluster:
        """Return a cluster by name.

        Raises
        ------
        UsageError
            When there is none of that name.
        """
        for cluster in self.clusters:
            if cluster.name == name:
                return cluster
        known = [cluster.name for cluster in self.clusters]
        raise UsageError(f"{self.name} has no cluster {name!r}. {nearest(name, known)}")

    def configurations(self) -> tuple[CoreConfiguration, ...]:
        """Return every core configuration of the chip, cluster by cluster."""
        return tuple(config for cluster in self.clusters for config in cluster.configurations())

    def accelerator(self, kind: str) -> Accelerator | None:
        """Return the modelled accelerator of a kind (``gpu``, ``npu``), or None."""
        return next((a for a in self.accelerators if a.kind == kind and a.gflops is not None), None)

    def accelerator_configurations(self) -> tuple[CoreConfiguration, ...]:
        """Return ``gpu:1`` and ``npu:1`` for the accelerators that are modelled."""
        kinds = dict.fromkeys(a.kind for a in self.accelerators if a.gflops is not None)
        return tuple(CoreConfiguration(kind, 1) for kind in kinds)

    def check_cores(self, configurations: list[CoreConfiguration]) -> None:
        """Check that these configurations fit on the chip side by side.

        Raises
        ------
        UsageError
            When together they want more cores than a cluster has; every such cluster is named.
        """
        wanted: dict[str, int] = {}
        for configuration in configurations:
            wanted[configuration.cluster] = wanted.get(configuration.cluster, 0) + configuration.cores
        problems = [
            f"{name}: {cores} cores asked for, {self.cluster(name).cores} there"
            for name, cores in wanted.items()
            if cores > self.cluster(name).cores
        ]
        if problems:
            raise UsageError(several(f"{self.name} does not have these cores", problems))


def soc_names() -> tuple[str, ...]:
    """Return the names of all described SoCs, ``host`` last."""
    folder = resources.files("cospipe.ir") / "socs"
    stems = sorted(entry.name[: -len(".toml")] for entry in folder.iterdir() if entry.name.endswith(".toml"))
    return (*stems, "host")


def load_soc(name_or_file: str | Path) -> Soc:
    """Return an SoC description by name (``"hikey970"``, ``"host"``) or from a TOML file.

    Raises
    ------
    UsageError
        When no SoC has that name (the message gives the nearest ones) or the file does not exist.
    SocError
        When the file has mistakes; the message lists every one with its key.
    """
    if str(name_or_file) == "host":
        from cospipe.ir.host import host_soc

        return host_soc()
    path = Path(name_or_file)
    if path.suffix == ".toml":
        if not path.is_file():
            raise UsageError(
                f"There is no SoC description {str(path)!r}; write one or name one of {', '.join(soc_names())}."
            )
        return parse_soc(_read(path), str(path))
    if str(name_or_file) not in soc_names():
        raise UsageError(f"There is no SoC {str(name_or_file)!r}. {nearest(str(name_or_file), soc_names())}")
    return _bundled_soc(str(name_or_file))


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SocError(f"The SoC description {str(path)!r} cannot be read: {error}.") from error


@cache
def _bundled_soc(name: str) -> Soc:
    file = resources.files("cospipe.ir") / "socs" / f"{name}.toml"
    return parse_soc(file.read_text(encoding="utf-8"), f"{name}.toml")


def parse_soc(text: str, origin: str) -> Soc:
    """Read a TOML description; ``origin`` names it in errors.

    Raises
    ------
    SocError
        When it is not TOML, or keys are missing, unknown or out of range; all of them are listed.
    """
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SocError(f"{origin} is not valid TOML: {error}.") from error
    try:
        return Soc.model_validate(values)
    except ValidationError as error:
        raise SocError(several(f"{origin} has {error.error_count()} mistake(s)", _mistakes(error, values))) from error


def _mistakes(error: ValidationError, values: dict[str, Any]) -> list[str]:
    return [f"{_key(e['loc'], values)}: {e['msg'].removeprefix('Value error, ')}" for e in error.errors()]


def _key(location: tuple[int | str, ...], values: dict[str, Any]) -> str:
    """Write a location as the file's reader knows it: ``clusters.big.cores``, not ``clusters.0.cores``."""
    parts = [str(part) for part in location]
    if len(location) > 1 and location[0] in _CALLED_BY and isinstance(location[1], int):
        table = values[str(location[0])][location[1]]
        parts[1] = str(table.get(_CALLED_BY[location[0]], parts[1])) if isinstance(table, dict) else parts[1]
    return ".".join(parts)
