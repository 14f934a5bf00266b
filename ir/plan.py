"""What runs where: core configurations, stages and the plan of a pipeline."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, Field

from cospipe.ir.errors import UsageError

OBJECTIVES = ("throughput", "latency")


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
    cores: int

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


class StagePlan(BaseModel):
    """One stage: which graph nodes run on which cores, and what that is predicted to cost."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    configuration: CoreConfiguration
    cpu_ids: tuple[int, ...]
    nodes: tuple[str, ...] = Field(min_length=1)
    compute_us: float = Field(ge=0)
    hand_over_us: float = Field(ge=0)
    hand_over_bytes: int = Field(ge=0)

    @property
    def time_us(self) -> float:
        """Predicted time the stage is busy for one input: taking over its tensors and computing."""
        return self.compute_us + self.hand_over_us


class SearchReport(BaseModel):
    """What the design-space exploration looked at, and why its answer is optimal."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    positions: int
    """Cut positions of the graph, both ends included."""
    states: int
    """States (position, cores used of each cluster) of the search space."""
    transitions: int
    """Transitions weighed: one stage on one core configuration from one state."""
    seconds: float
    limited_by: str
    """What keeps the period from being shorter, as a sentence."""


class PipelinePlan(BaseModel):
    """A network cut into stages, each on cores of its own.

    Steady-state period and latency follow from the stages: the period is the longest stage, the latency of
    one input is the sum of all.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    soc: str
    objective: str
    stages: tuple[StagePlan, ...] = Field(min_length=1)
    single_stage_us: dict[str, float] = Field(default_factory=dict)
    """Predicted time of the whole network as one stage, on each core configuration (``big:4``)."""
    search: SearchReport | None = None

    @property
    def bottleneck(self) -> StagePlan:
        """The stage that decides the period."""
        return max(self.stages, key=lambda stage: stage.time_us)

    @property
    def period_us(self) -> float:
        """Time between two results at steady state."""
        return self.bottleneck.time_us

    @property
    def latency_us(self) -> float:
        """Time of one input from the first stage to the last."""
        return sum(stage.time_us for stage in self.stages)

    @property
    def frames_per_second(self) -> float:
        """Throughput at steady state."""
        return 1e6 / self.period_us

    @property
    def best_single_stage(self) -> tuple[str, float] | None:
        """Core configuration and time of the fastest way to run the network as one stage."""
        if not self.single_stage_us:
            return None
        return min(self.single_stage_us.items(), key=lambda item: item[1])
