"""The best plan within limits on sums: every state keeps all labels that no other label beats."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from cospipe.passes.cut_graph import UNREACHABLE, Integers
from cospipe.passes.labels import Criterion, Step
from cospipe.passes.search_space import SearchSpace
from cospipe.passes.stage_costs import StageCosts

Booleans = npt.NDArray[np.bool_]


@dataclass
class _Labels:
    """Labels of one usage at all positions so far; ``parents`` are numbers of labels in the history."""

    values: Integers
    positions: Integers
    numbers: Integers


@dataclass
class _History:
    """Where every label came from: its parent, and the stage behind it."""

    parents: list[Integers] = field(default_factory=list)
    steps: list[Integers] = field(default_factory=list)
    count: int = 0

    def add(self, parents: Integers, steps: Integers) -> Integers:
        self.parents.append(parents)
        self.steps.append(steps)
        self.count += len(parents)
        return np.arange(self.count - len(parents), self.count)

    def steps_of(self, number: int) -> list[Step]:
        parents, steps = np.concatenate(self.parents), np.concatenate(self.steps)
        found = []
        while number > 0:
            start, stop, option = map(int, steps[number])
            found.append((start, stop, option))
            number = int(parents[number])
        return found[::-1]


def best_within(
    costs: StageCosts,
    space: SearchSpace,
    criteria: Sequence[Criterion],
    limits: Mapping[Criterion, int],
    allowed: Booleans,
    longest_ps: int,
    final: Booleans,
) -> list[Step] | None:
    """Return the stages of the plan with the lexicographically least sums among those within limits, or None.

    Exact. The number of labels of a state may grow exponentially in theory; labels that cannot keep to a limit
    whatever follows are dropped at once.

    Parameters
    ----------
    costs, space, allowed, longest_ps
        As for :func:`cospipe.passes.labels.relax`.
    criteria : sequence of Criterion
        Sums to minimise, the most important first.
    limits : mapping of Criterion to int
        Largest sum allowed.
    final : ndarray of bool
        Usages a complete plan may end with.
    """
    tracked = (*criteria, *(criterion for criterion in limits if criterion not in criteria))
    limited = [tracked.index(criterion) for criterion in limits]
    to_go = _to_go(costs, [tracked[i] for i in limited], allowed, longest_ps)
    room = np.array(list(limits.values()), dtype=np.int64)
    history = _History()
    root = history.add(np.array([-1]), np.zeros((1, 3), dtype=np.int64))
    empty = np.zeros((0, len(tracked)), dtype=np.int64)
    labels = [_Labels(empty, np.zeros(0, np.int64), np.zeros(0, np.int64)) for _ in space.usages]
    labels[0] = _Labels(np.zeros((1, len(tracked)), dtype=np.int64), np.zeros(1, np.int64), root)
    best: tuple[tuple[int, ...], int] | None = None
    for position in range(1, costs.positions):
        found = costs.at(position)
        amounts = np.stack([criterion.of(found) for criterion in tracked], axis=-1)
        usable = allowed & (found.period_ps <= longest_ps)
        new = [
            _extended(labels, space, usage, amounts, usable, limited, room - to_go[:, position])
            for usage in range(len(space.usages))
        ]
        for usage, (values, parents, starts, options) in enumerate(new):
            if not len(values):
                continue
            steps = np.stack([starts, np.full(len(starts), position), options], axis=1)
            numbers = history.add(parents, steps)
            old = labels[usage]
            labels[usage] = _Labels(
                np.concatenate([old.values, values]),
                np.concatenate([old.positions, np.full(len(values), position)]),
                np.concatenate([old.numbers, numbers]),
            )
            if position == costs.positions - 1 and final[usage]:
                first = (tuple(map(int, values[0])), int(numbers[0]))
                best = first if best is None else min(best, first)
    return None if best is None else history.steps_of(best[1])


def _extended(
    labels: Sequence[_Labels],
    space: SearchSpace,
    usage: int,
    amounts: Integers,
    usable: Booleans,
    limited: Sequence[int],
    room: Integers,
) -> tuple[Integers, Integers, Integers, Integers]:
    """Return the unbeaten labels of one state: values, parents, starts and options of their last stages."""
    values, parents, starts, options = [], [], [], []
    for group, source in enumerate(space.sources[:, usage]):
        if source >= len(space.usages) or not len(labels[source].values):
            continue
        before = labels[source]
        for option in np.flatnonzero(space.group == group):
            chosen = usable[before.positions, option]
            at = before.positions[chosen]
            after = before.values[chosen] + amounts[at, option]
            keeps = (after[:, limited] <= room).all(axis=1)
            values.append(after[keeps])
            parents.append(before.numbers[chosen][keeps])
            starts.append(at[keeps])
            options.append(np.full(int(keeps.sum()), option))
    if not values:
        nothing = np.zeros(0, np.int64)
        return np.zeros((0, amounts.shape[-1]), dtype=np.int64), nothing, nothing, nothing
    joined = np.concatenate(values)
    kept = _unbeaten(joined, limited)
    return joined[kept], np.concatenate(parents)[kept], np.concatenate(starts)[kept], np.concatenate(options)[kept]


def _unbeaten(values: Integers, limited: Sequence[int]) -> Integers:
    """Return the labels that none before them in lexicographic order matches in every limited sum."""
    order = np.lexsort(values.T[::-1])
    sums = values[order][:, limited]
    if len(limited) == 1:
        least = np.minimum.accumulate(np.concatenate([[UNREACHABLE], sums[:-1, 0]])) if len(sums) else sums[:, 0]
        return order[sums[:, 0] < least]
    kept: list[int] = []
    for row in range(len(sums)):
        if not kept or not (sums[kept] <= sums[row]).all(axis=1).any():
            kept.append(row)
    return order[kept]


def _to_go(costs: StageCosts, criteria: Sequence[Criterion], allowed: Booleans, longest_ps: int) -> Integers:
    """Return the least sums [criterion, position] from a position to the end, whatever cores are free."""
    least = np.full((len(criteria), costs.positions), UNREACHABLE, dtype=np.int64)
    least[:, -1] = 0
    for stop in range(costs.positions - 1, 0, -1):
        found = costs.at(stop)
        usable = allowed & (found.period_ps <= longest_ps)
        for row, criterion in enumerate(criteria):
            amounts = np.where(usable, criterion.of(found), UNREACHABLE).min(axis=1)
            least[row, :stop] = np.minimum(least[row, :stop], np.minimum(amounts + least[row, stop], UNREACHABLE))
    return least
