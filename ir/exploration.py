"""What an exploration of a chip found: the plan it chose, the best plan of every kind, baselines, the Pareto front."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from cospipe.ir.plan import PipelinePlan


class Limits(BaseModel):
    """What a plan must keep to; None for no limit."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    latency_us: float | None = Field(default=None, gt=0)
    power_mw: float | None = Field(default=None, gt=0)
    """Of the whole board, when every stage is busy."""
    memory_bytes: int | None = Field(default=None, gt=0)


class Option(BaseModel):
    """One plan among those compared."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    """A kind of plan, a baseline, or the point of a front."""
    plan: PipelinePlan
    cannot_run: tuple[str, ...] = ()
    """Why it is shown but never chosen; empty when a bundle can run it."""
    exceeds: tuple[str, ...] = ()
    """Limits it does not keep to."""


class Exploration(BaseModel):
    """Everything one exploration found."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    soc: str
    objective: str
    limits: Limits
    chosen: PipelinePlan
    kinds: tuple[Option, ...]
    """The best plan of each kind, those that cannot run too."""
    baselines: tuple[Option, ...]
    """What others would do: Pipe-it's heuristic, a two-way split, one cluster alone, all cores for each kernel."""
    front: tuple[Option, ...]
    """Plans that can run, none of which another beats in period, latency and energy at once; by rising period."""
    reasons: tuple[str, ...]
    """Why the chosen plan is the best, as sentences: the bound, what was explored, what limits it."""
