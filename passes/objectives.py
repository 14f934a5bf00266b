"""The best plan for each objective within limits: which labels are relaxed, in which order, with which bounds."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from cospipe.passes.cut_graph import UNREACHABLE, Integers
from cospipe.passes.labels import ENERGY, LATENCY, PERIOD, STAGES, Criterion, lexicographic_argmin, relax
from cospipe.passes.limited_labels import best_within
from cospipe.passes.plan_costs import PICOSECOND_MW_PER_PJ, PlanCosts, Pricing

Booleans = npt.NDArray[np.bool_]
_Class = tuple[int, Booleans]
"""A factor on all times in thousandths, and the usages of complete plans that it belongs to."""
_SUMS = (LATENCY, ENERGY, STAGES)
_THRIFT = (ENERGY, LATENCY, STAGES)


class Solver:
    """One search. Plans are weighed class by class: those that keep as many components at work have one factor."""

    def __init__(self, pricing: Pricing) -> None:
        self.pricing = pricing
        self.costs, self.space = pricing.costs, pricing.space
        self.among_others = np.array([not option.whole_network for option in pricing.costs.options])
        self.within_power = pricing.space.power_mw <= (pricing.wanted.power_mw or np.inf)
        self.relaxations = 0

    def best(self) -> PlanCosts | None:
        """Return the best plan, or None when none keeps to the limits."""
        solve = {"throughput": self._fastest, "latency": self._shortest, "energy": self._thriftiest}
        found = solve[self.pricing.objective](self._classes(), self._single_stages())
        return min(found, default=None)

    def least(self, criterion: Criterion) -> int:
        """Return the least sum of a criterion over all plans, whatever the limits."""
        return self._least(criterion, UNREACHABLE, self.space.components > 0)

    def _classes(self) -> list[_Class]:
        """Return, for each number of components at work, the factor on all times and the usages it belongs to."""
        components = self.space.components
        return [
            (self.pricing.resources.contention_permille(int(count)), (components == count) & self.within_power)
            for count in np.unique(components[components > 0])
        ]

    def _single_stages(self) -> list[PlanCosts]:
        """Weigh every plan of one stage; a single replica has nothing beside it."""
        last = self.costs.positions - 1
        plans = []
        for number, option in enumerate(self.costs.options):
            components = len(option.clusters) if option.replica_count > 1 else 1
            plan = self.pricing.costs_of([(0, last, number)], self.pricing.resources.contention_permille(components))
            if self.pricing.keeps_to_limits(plan):
                plans.append(plan)
        return plans

    def _fastest(self, classes: list[_Class], plans: list[PlanCosts]) -> list[PlanCosts]:
        periods = relax(self.costs, self.space, (PERIOD,), self.among_others).final()[0]
        bounds = [int(periods[usages].min(initial=UNREACHABLE)) for _, usages in classes]
        for index in sorted(range(len(classes)), key=lambda i: bounds[i] * classes[i][0]):
            permille, usages = classes[index]
            most_ps = min(plans).key[0] // permille if plans else UNREACHABLE - 1
            if bounds[index] <= most_ps:
                plan = self._least_period(bounds[index], most_ps, permille, usages, self.pricing.limits(permille))
                plans += [plan] if plan else []
        return plans

    def _shortest(self, classes: list[_Class], plans: list[PlanCosts]) -> list[PlanCosts]:
        for permille, usages in classes:
            limits = self.pricing.limits(permille)
            plan = self._least_sums(_SUMS, UNREACHABLE, permille, usages, limits)
            if plan is None:
                continue
            fastest = relax(self.costs, self.space, (LATENCY, PERIOD), self.among_others).final()
            latency_ps = self.pricing.sum_of(LATENCY, plan.steps)
            same = usages & (fastest[0] == latency_ps)
            start_ps = int(fastest[1][same].min(initial=UNREACHABLE))
            limits = {**limits, LATENCY: latency_ps}
            longest_ps = self.pricing.longest_ps(plan.steps)
            tighter = self._least_period(min(start_ps, longest_ps), longest_ps, permille, usages, limits)
            plans.append(tighter or plan)
        return plans

    def _thriftiest(self, classes: list[_Class], plans: list[PlanCosts]) -> list[PlanCosts]:
        idle_mw = self.pricing.resources.idle_power_mw
        for permille, usages in classes:
            limits, bound = self.pricing.limits(permille), UNREACHABLE
            while bound > 0 and (plan := self._least_sums(_THRIFT, bound, permille, usages, limits)):
                plans.append(plan)
                # A plan with a shorter period needs no less for computing: it must make up for it while it is idle.
                left = min(plans).key[0] - permille * self.pricing.sum_of(ENERGY, plan.steps)
                worth_ps = int(left * PICOSECOND_MW_PER_PJ / (permille * idle_mw)) + 1 if idle_mw else 0
                bound = min(self.pricing.longest_ps(plan.steps) - 1, worth_ps)
        return plans

    def _least_period(
        self, least_ps: int, most_ps: int, permille: int, usages: Booleans, limits: dict[Criterion, int]
    ) -> PlanCosts | None:
        """Return the plan with the shortest period from ``least_ps`` to ``most_ps`` within limits, or None."""
        plan = self._least_sums(_SUMS, least_ps, permille, usages, limits)
        if plan is not None:
            return plan
        plan = self._least_sums(_SUMS, most_ps, permille, usages, limits)
        if plan is None:
            return None
        candidates = self._periods(least_ps + 1, self.pricing.longest_ps(plan.steps))
        low, high = -1, len(candidates) - 1
        limited = (next(iter(limits)),)  # whether there is a plan is settled by one sum more quickly than by all
        while low + 1 < high:
            middle = (low + high) // 2
            tighter = self._least_sums(limited, int(candidates[middle]), permille, usages, limits)
            if tighter is None:
                low = middle
            else:
                high = int(np.searchsorted(candidates, self.pricing.longest_ps(tighter.steps)))
        return self._least_sums(_SUMS, int(candidates[high]), permille, usages, limits)

    def _periods(self, least_ps: int, most_ps: int) -> Integers:
        """Return every period a stage may have in a range, rising."""
        found = [self.costs.at(stop).period_ps[:, self.among_others] for stop in range(1, self.costs.positions)]
        return np.unique(np.concatenate([p[(p >= least_ps) & (p <= most_ps)] for p in found]))

    def _least_sums(
        self,
        criteria: tuple[Criterion, ...],
        longest_ps: int,
        permille: int,
        usages: Booleans,
        limits: dict[Criterion, int],
    ) -> PlanCosts | None:
        """Return the plan with the least sums whose stages have no longer period than that, or None."""
        for criterion, most in limits.items():
            if criterion is not criteria[0] and self._least(criterion, longest_ps, usages) > most:
                return None
        labels = relax(self.costs, self.space, criteria, self.among_others, longest_ps)
        self.relaxations += 1
        ends = np.flatnonzero(usages & (labels.final()[0] < UNREACHABLE))
        if not len(ends):
            return None
        steps = labels.steps(int(ends[lexicographic_argmin(labels.final()[:, ends, np.newaxis])[0]]))
        broken = [criterion for criterion, most in limits.items() if self.pricing.sum_of(criterion, steps) > most]
        if not broken:
            return self.pricing.costs_of(steps, permille)
        if broken == [criteria[0]] and len(limits) == 1:
            return None
        within = best_within(self.costs, self.space, criteria, limits, self.among_others, longest_ps, final=usages)
        return None if within is None else self.pricing.costs_of(within, permille)

    def _least(self, criterion: Criterion, longest_ps: int, usages: Booleans) -> int:
        final = relax(self.costs, self.space, (criterion,), self.among_others, longest_ps).final()[0]
        self.relaxations += 1
        return int(final[usages].min(initial=UNREACHABLE))
