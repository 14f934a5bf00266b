"""Labels of the states (cut position, usage), relaxed along the cut graph in topological order: exact, polynomial."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import networkx as nx
import numpy as np
import numpy.typing as npt

from cospipe.passes.cut_graph import UNREACHABLE, Integers
from cospipe.passes.search_space import SearchSpace
from cospipe.passes.stage_costs import StageCosts, StopCosts

Booleans = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Criterion:
    """One number of a plan: ``combine`` folds its stages' values of a field of :class:`StopCosts` into it."""

    field: str
    combine: np.ufunc

    def of(self, costs: StopCosts) -> Integers:
        """Return its values [start, option]."""
        if not self.field:
            return np.ones_like(costs.period_ps)
        values: Integers = getattr(costs, self.field)
        return values


PERIOD = Criterion("period_ps", np.maximum)
LATENCY = Criterion("latency_ps", np.add)
ENERGY = Criterion("energy_pj", np.add)
MEMORY = Criterion("memory_bytes", np.add)
STAGES = Criterion("", np.add)

Step = tuple[int, int, int]
"""A stage: start, stop, number of its option."""


@dataclass(frozen=True)
class Labels:
    """The best values of the criteria in each state, and the last stage that leads there."""

    values: Integers
    """[criterion, position, usage], with one usage more, the one before an impossible stage."""
    starts: Integers
    """[position, usage]: where the last stage starts."""
    groups: Integers
    """[position, usage]: group of the last stage's option."""
    options: dict[int, Integers]
    """[start, group] for each position: the best option of the group."""
    sources: Integers
    transitions: int

    def final(self) -> Integers:
        """Return the values [criterion, usage] of complete plans."""
        values: Integers = self.values[:, -1, :-1]
        return values

    def steps(self, usage: int) -> list[Step]:
        """Return the stages of the best complete plan that ends with a usage."""
        position = self.values.shape[1] - 1
        steps = []
        while position > 0:
            start, group = int(self.starts[position, usage]), int(self.groups[position, usage])
            steps.append((start, position, int(self.options[position][start, group])))
            position, usage = start, int(self.sources[group, usage])
        return steps[::-1]


def relax(
    costs: StageCosts,
    space: SearchSpace,
    criteria: Sequence[Criterion],
    allowed: Booleans,
    longest_ps: int = UNREACHABLE,
) -> Labels:
    """Label every state with the lexicographically least criteria.

    Exact when at most the last criterion is a maximum: sums keep their order when a stage is added, maxima do not.

    Parameters
    ----------
    costs : StageCosts
        What stages cost.
    space : SearchSpace
        States.
    criteria : sequence of Criterion
        What to minimise, the most important first.
    allowed : ndarray of bool
        Options that may be used.
    longest_ps : int
        Longest period a stage may have.
    """
    positions, usages = costs.positions, len(space.usages)
    labels = Labels(
        values=np.full((len(criteria), positions, usages + 1), UNREACHABLE, dtype=np.int64),
        starts=np.zeros((positions, usages), dtype=np.int64),
        groups=np.zeros((positions, usages), dtype=np.int64),
        options={},
        sources=space.sources,
        transitions=0,
    )
    labels.values[:, 0, 0] = 0
    for position in nx.topological_sort(costs.cuts):
        if position:
            _relax_position(position, costs, space, criteria, allowed, longest_ps, labels)
    return labels


def _relax_position(
    position: int,
    costs: StageCosts,
    space: SearchSpace,
    criteria: Sequence[Criterion],
    allowed: Booleans,
    longest_ps: int,
    labels: Labels,
) -> None:
    """Label all states of one position at once: every last stage, with every option, from every usage."""
    found = costs.at(position)
    amounts, labels.options[position] = best_of_groups(
        [criterion.of(found) for criterion in criteria], allowed & (found.period_ps <= longest_ps), space
    )
    groups, usages = space.sources.shape
    before = labels.values[0, :position][:, space.sources]
    leading = criteria[0].combine(before, amounts[0][:, :, np.newaxis]).reshape(position * groups, usages)
    best = leading.argmin(axis=0)
    tied = (leading == leading[best, np.arange(usages)]).sum(axis=0) > 1
    if len(criteria) > 1 and tied.any():
        best[tied] = _break_ties(np.flatnonzero(tied), leading, space, criteria, amounts, labels.values[:, :position])
    labels.starts[position], labels.groups[position] = starts, chosen = best // groups, best % groups
    previous = labels.values[:, starts, space.sources[chosen, np.arange(usages)]]
    for row, criterion in enumerate(criteria):
        added = criterion.combine(previous[row], amounts[row][starts, chosen])
        labels.values[row, position, :-1] = np.minimum(added, UNREACHABLE)


def _break_ties(
    usages: Integers,
    leading: Integers,
    space: SearchSpace,
    criteria: Sequence[Criterion],
    amounts: Sequence[Integers],
    before: Integers,
) -> Integers:
    """Return the best candidates of some usages, by all criteria."""
    rows = [leading[:, usages]]
    for row, criterion in enumerate(criteria[1:], start=1):
        after = criterion.combine(before[row][:, space.sources[:, usages]], amounts[row][:, :, np.newaxis])
        rows.append(after.reshape(rows[0].shape))
    return lexicographic_argmin(np.stack(rows))


def best_of_groups(values: Sequence[Integers], usable: Booleans, space: SearchSpace) -> tuple[list[Integers], Integers]:
    """Return, for values [start, option], the least ones [start, group], and the option that has them.

    Options of a group take the same cores, so only the lexicographically least one can be part of the best plan.
    """
    best, least = usable[:, space.by_group], []
    for value in values:
        candidates = np.where(best, value[:, space.by_group], UNREACHABLE)
        least.append(np.minimum.reduceat(candidates, space.starts, axis=1))
        best &= candidates == np.repeat(least[-1], _sizes(space), axis=1)
    numbers = np.where(best, space.by_group, np.iinfo(np.int64).max)
    return least, np.minimum.reduceat(numbers, space.starts, axis=1)


def _sizes(space: SearchSpace) -> Integers:
    sizes: Integers = np.diff(np.append(space.starts, len(space.by_group)))
    return sizes


def lexicographic_argmin(candidates: Integers) -> Integers:
    """Return, for candidates [criterion, candidate, column], the first best candidate of each column."""
    best = np.ones(candidates.shape[1:], dtype=bool)
    for values in candidates:
        still_best = np.where(best, values, UNREACHABLE)
        best &= still_best == still_best.min(axis=0)
    first: Integers = best.argmax(axis=0)
    return first
