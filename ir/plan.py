"""What runs where: core configurations, stages and the plan of a pipeline."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from cospipe.ir.errors import UsageError

OBJECTIVES = ("throughput", "latency", "energy")

PLAN_KINDS = ("one stage", "pipeline", "copies", "spread equal", "spread by-speed", "mixture")
"""One stage on one cluster; stages in a row; whole networks side by side; every kernel over several clusters, in equal
parts or by speed; and mixtures of these."""

MOST_CORES = 1024

Sharing = Literal["equal", "by-speed"]
CpuId = Annotated[int, Field(ge=0, le=65535)]
Count = Annotated[int, Field(ge=0, lt=2**63)]
Figure = Annotated[float, Field(allow_inf_nan=False)]
"""A finite number; JSON has no others."""


@dataclass(frozen=True, order=True)
class CoreConfiguration:
    """Some cores of one cluster, written ``big:4``.

    Parameters
    ----------
    cluster : str
        Name of the cluster.
    cores : int
        How many of its cores are used, at least 1.
    """

    cluster: str
    cores: Annotated[int, Field(ge=1, le=MOST_CORES)]  # checked where one is read from JSON

    def __post_init__(self) -> None:
        if self.cores < 1:
            raise UsageError(f"A core configuration needs at least one core, not {self.cluster}:{self.cores}.")

    @classmethod
    def parse(cls, text: str) -> CoreConfiguration:
        """Read ``big:4``.

        Raises
        ------
        UsageError
            When the text has another form.
        """
        cluster, _, cores = text.rpartition(":")
        if not cluster or not cores.isdecimal():
            raise UsageError(f"{text!r} is not a core configuration; write cluster:cores, for example big:4.")
        return cls(cluster, int(cores))

    def __str__(self) -> str:
        return f"{self.cluster}:{self.cores}"


class Replica(BaseModel):
    """One copy of a stage, on cores of its own."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    cores: tuple[CoreConfiguration, ...] = Field(min_length=1)
    """Several when every kernel is spread over cores of several clusters. An accelerator counts as a cluster."""
    cpu_ids: tuple[CpuId, ...] = ()
    compute_us: Figure = Field(ge=0)
    sharing: Sharing = "equal"
    """How cores of several clusters share the rows of a kernel: equal parts, or by their speed."""

    @property
    def text(self) -> str:
        """``big:4``, or ``big:4+little:4 by-speed``."""
        cores = "+".join(map(str, self.cores))
        return f"{cores} {self.sharing}" if len(self.cores) > 1 else cores


class StagePlan(BaseModel):
    """One stage: which graph nodes run on which cores, and what that is predicted to cost.

    Its replicas take the frames in turn, each as soon as it is free.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    replicas: tuple[Replica, ...] = Field(min_length=1)
    nodes: tuple[str, ...] = Field(min_length=1)
    hand_over_us: Figure = Field(ge=0)
    hand_over_bytes: Count

    @property
    def text(self) -> str:
        """Every replica's cores: ``big:2``, or ``4x big:1, 2x little:2``."""
        counts = Counter(replica.text for replica in self.replicas)
        return ", ".join(f"{count}x {text}" if count > 1 else text for text, count in counts.items())

    @property
    def clusters(self) -> tuple[str, ...]:
        """Clusters and accelerators it uses, each once."""
        return tuple(dict.fromkeys(cores.cluster for replica in self.replicas for cores in replica.cores))

    @property
    def cpu_ids(self) -> tuple[int, ...]:
        """Cores of all replicas."""
        return tuple(cpu for replica in self.replicas for cpu in replica.cpu_ids)

    @property
    def compute_us(self) -> float:
        """Computing time of the slowest replica."""
        return max(replica.compute_us for replica in self.replicas)

    @property
    def time_us(self) -> float:
        """Longest time a replica is busy for one input: taking over its tensors and computing."""
        return self.compute_us + self.hand_over_us

    @property
    def period_us(self) -> float:
        """Time between two results of all replicas together."""
        times_us = [replica.compute_us + self.hand_over_us for replica in self.replicas]
        return 0.0 if min(times_us) == 0 else 1 / sum(1 / time_us for time_us in times_us)


class SearchReport(BaseModel):
    """What the design-space exploration looked at, and why its answer is optimal."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    positions: Count
    """Cut positions of the graph, both ends included."""
    states: Count
    """States (position, cores used of each cluster) of the search space."""
    transitions: Count
    """Transitions weighed: one stage on one core configuration from one state."""
    seconds: Figure
    limited_by: str
    """What keeps the period from being shorter, as a sentence."""


class PipelinePlan(BaseModel):
    """A network cut into stages, each on cores of its own.

    Steady-state period and latency follow from the stages: the period is the longest one of a stage, the latency of
    one input is the sum of all; both grow by ``contention`` when several components of the chip work at once.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    soc: str
    objective: str
    stages: tuple[StagePlan, ...] = Field(min_length=1)
    single_stage_us: dict[str, Figure] = Field(default_factory=dict)
    """Predicted time of the whole network as one stage, on each core configuration (``big:4``)."""
    contention: Figure = Field(default=1.0, ge=1)
    """Factor on all times, because stages that run at once share memory."""
    clock_mhz: dict[str, Figure] = Field(default_factory=dict)
    """Clock of each cluster; the highest where it is not given."""
    energy_mj: Figure | None = Field(default=None, ge=0)
    """Predicted energy of the whole board for one frame, millijoules; None where its power is not known."""
    power_mw: Figure | None = Field(default=None, ge=0)
    """Power the board draws when every stage is busy, milliwatts."""
    memory_bytes: Count | None = None
    """Weights and tensors of every replica."""
    search: SearchReport | None = None

    @property
    def bottleneck(self) -> StagePlan:
        """The stage that decides the period."""
        return max(self.stages, key=lambda stage: stage.period_us)

    @property
    def period_us(self) -> float:
        """Time between two results at steady state."""
        return self.contention * self.bottleneck.period_us

    @property
    def latency_us(self) -> float:
        """Time of one input from the first stage to the last, without waiting."""
        return self.contention * sum(stage.time_us for stage in self.stages)

    @property
    def frames_per_second(self) -> float:
        """Throughput at steady state."""
        return 1e6 / self.period_us

    @property
    def kind(self) -> str:
        """What sort of plan this is, one of :data:`PLAN_KINDS`."""
        replicas = [replica for stage in self.stages for replica in stage.replicas]
        if len(self.stages) == 1 and len(replicas) > 1:
            return "copies" if all(len(replica.cores) == 1 for replica in replicas) else "mixture"
        if len(replicas) > len(self.stages) or (len(replicas) > 1 and any(len(r.cores) > 1 for r in replicas)):
            return "mixture"
        if len(self.stages) > 1:
            return "pipeline"
        return "one stage" if len(replicas[0].cores) == 1 else f"spread {replicas[0].sharing}"

    @property
    def best_single_stage(self) -> tuple[str, float] | None:
        """Core configuration and time of the fastest way to run the network as one stage."""
        if not self.single_stage_us:
            return None
        return min(self.single_stage_us.items(), key=lambda item: item[1])
