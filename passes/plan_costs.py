"""What whole plans cost: the sums and the longest of their stages, with contention, in the order of an objective."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from cospipe.ir.exploration import Limits
from cospipe.passes.cut_graph import PICOSECONDS_PER_US, Resources
from cospipe.passes.labels import ENERGY, LATENCY, MEMORY, Criterion, Step
from cospipe.passes.search_space import SearchSpace
from cospipe.passes.stage_costs import StageCosts
from cospipe.passes.stage_options import Placement, StageOption

PICOSECOND_MW_PER_PJ = 1000


@dataclass(frozen=True)
class Stage:
    """The units ``order[start:stop]`` on what one option occupies; ``compute_us`` has one entry a replica."""

    start: int
    stop: int
    option: StageOption
    compute_us: tuple[float, ...]
    hand_over_us: float
    hand_over_bytes: int

    @property
    def placements(self) -> tuple[Placement, ...]:
        """Where each replica runs."""
        return self.option.placements


@dataclass(frozen=True)
class SearchResult:
    """The best plan, and how much was looked at to find it (see :class:`cospipe.ir.plan.SearchReport`).

    ``contention`` is the factor on all its times; ``energy_pj`` and ``power_mw`` mean nothing without the power of
    everything it uses.
    """

    stages: tuple[Stage, ...]
    contention: float
    period_us: float
    latency_us: float
    energy_pj: float
    power_mw: float
    memory_bytes: int
    positions: int
    states: int
    transitions: int
    seconds: float


@dataclass(frozen=True, order=True)
class PlanCosts:
    """A plan and its costs, in thousandths of picoseconds and picojoules, in the order of the objective."""

    key: tuple[int, ...]
    steps: tuple[Step, ...] = field(compare=False)
    permille: int = field(compare=False)
    """Factor on all its times, in thousandths."""


@dataclass(frozen=True)
class Pricing:
    """What plans cost with these stages and resources, for one objective and within limits."""

    costs: StageCosts
    space: SearchSpace
    resources: Resources
    objective: str
    wanted: Limits

    def costs_of(self, steps: Sequence[Step], permille: int) -> PlanCosts:
        """Return the costs of a plan, given the factor on its times."""
        period, latency = permille * self.longest_ps(steps), permille * self.sum_of(LATENCY, steps)
        idle_pj = round(self.resources.idle_power_mw * period / PICOSECOND_MW_PER_PJ)
        energy = permille * self.sum_of(ENERGY, steps) + idle_pj
        keys = {
            "throughput": (period, latency, energy, len(steps)),
            "latency": (latency, period, energy, len(steps)),
            "energy": (energy, period, latency, len(steps)),
        }
        return PlanCosts(keys[self.objective], tuple(steps), permille)

    def longest_ps(self, steps: Sequence[Step]) -> int:
        """Return the longest period of a stage, before contention."""
        return max(int(self.costs.at(stop).period_ps[start, option]) for start, stop, option in steps)

    def sum_of(self, criterion: Criterion, steps: Sequence[Step]) -> int:
        """Return the sum of a criterion over the stages, before contention."""
        return sum(int(criterion.of(self.costs.at(stop))[start, option]) for start, stop, option in steps)

    def power_mw(self, steps: Sequence[Step]) -> float:
        """Return the power of the board when every stage is busy."""
        return self.resources.idle_power_mw + sum(float(self.costs.power_mw[option]) for _, _, option in steps)

    def keeps_to_limits(self, plan: PlanCosts) -> bool:
        """Tell whether a plan is within the limits on power, latency and memory."""
        if self.wanted.power_mw is not None and self.power_mw(plan.steps) > self.wanted.power_mw:
            return False
        return all(self.sum_of(limited, plan.steps) <= most for limited, most in self.limits(plan.permille).items())

    def limits(self, permille: int) -> dict[Criterion, int]:
        """Return the limits on sums before contention."""
        limits: dict[Criterion, int] = {}
        if self.wanted.latency_us is not None:
            limits[LATENCY] = int(self.wanted.latency_us * PICOSECONDS_PER_US * 1000 // permille)
        if self.wanted.memory_bytes is not None:
            limits[MEMORY] = self.wanted.memory_bytes
        return limits

    def transitions(self) -> int:
        """Return the transitions of one relaxation: a stage with one group of options from one state."""
        positions = self.costs.positions
        possible = int((self.space.sources < len(self.space.usages)).sum())
        return positions * (positions - 1) // 2 * possible

    def result(self, plan: PlanCosts, transitions: int, seconds: float) -> SearchResult:
        """Return a plan as what callers see."""
        factor = plan.permille / 1000
        period_ps, latency_ps = self.longest_ps(plan.steps), self.sum_of(LATENCY, plan.steps)
        busy_pj = self.sum_of(ENERGY, plan.steps)
        idle_pj = self.resources.idle_power_mw * period_ps / PICOSECOND_MW_PER_PJ
        return SearchResult(
            stages=tuple(self._stage(step) for step in plan.steps),
            contention=factor,
            period_us=factor * period_ps / PICOSECONDS_PER_US,
            latency_us=factor * latency_ps / PICOSECONDS_PER_US,
            energy_pj=factor * (busy_pj + idle_pj),
            power_mw=self.power_mw(plan.steps),
            memory_bytes=self.sum_of(MEMORY, plan.steps),
            positions=self.costs.positions,
            states=self.costs.positions * len(self.space.usages),
            transitions=transitions,
            seconds=seconds,
        )

    def _stage(self, step: Step) -> Stage:
        start, stop, number = step
        option, edge = self.costs.options[number], self.costs.cuts.edges[start, stop]
        times_ps = self.costs.replica_ps(start, stop, number)
        return Stage(
            start=start,
            stop=stop,
            option=option,
            compute_us=tuple(
                int(times_ps[self.costs.placements.index(p)]) / PICOSECONDS_PER_US for p in option.placements
            ),
            hand_over_us=edge["hand_over_ps"] / PICOSECONDS_PER_US,
            hand_over_bytes=edge["hand_over_bytes"],
        )
