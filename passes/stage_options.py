"""Every way a stage can occupy the chip: one core configuration, replicas of it, cores of several clusters, a GPU."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from cospipe.ir.plan import CoreConfiguration, Sharing


@dataclass(frozen=True)
class Placement:
    """Where one replica runs: cores of one cluster, of several, or an accelerator."""

    cores: tuple[CoreConfiguration, ...]
    sharing: Sharing = "equal"

    @property
    def is_spread(self) -> bool:
        """Whether every kernel is spread over cores of several clusters."""
        return len(self.cores) > 1


@dataclass(frozen=True)
class StageOption:
    """What a stage occupies: how many replicas of each placement."""

    replicas: tuple[tuple[Placement, int], ...]
    whole_network: bool = False
    """Whether it is an option for the only stage of a plan, not for one among several."""

    @property
    def placements(self) -> tuple[Placement, ...]:
        """Where each replica runs."""
        return tuple(placement for placement, count in self.replicas for _ in range(count))

    @property
    def replica_count(self) -> int:
        """Replicas of all placements."""
        return sum(count for _, count in self.replicas)

    @property
    def clusters(self) -> frozenset[str]:
        """Clusters and accelerators it occupies."""
        return frozenset(cores.cluster for placement, _ in self.replicas for cores in placement.cores)

    def demand(self, host_clusters: Mapping[str, str | None]) -> dict[str, int]:
        """Return the cores of each cluster it occupies, one for the host of each accelerator included."""
        demand: dict[str, int] = {}
        for placement, count in self.replicas:
            for cores in placement.cores:
                demand[cores.cluster] = demand.get(cores.cluster, 0) + count * cores.cores
                if host := host_clusters.get(cores.cluster):
                    demand[host] = demand.get(host, 0) + count
        return demand


@dataclass(frozen=True)
class Families:
    """Which kinds of stages a search may use; ``one`` is one replica on cores of one cluster, or on an accelerator."""

    one: bool = True
    replicas: bool = True
    equal_spread: bool = True
    spread_by_speed: bool = True
    accelerators: bool = True

    @classmethod
    def none(cls) -> Families:
        """Return a plain pipeline's families: none."""
        return cls(replicas=False, equal_spread=False, spread_by_speed=False, accelerators=False)


@dataclass(frozen=True)
class Components:
    """Cores of each cluster that may be used, and accelerators with the cluster that drives each."""

    cores: Mapping[str, int]
    accelerators: Mapping[str, str | None] = field(default_factory=dict)


def stage_options(components: Components, families: Families) -> tuple[StageOption, ...]:
    """Return every option of a stage.

    * one replica on some cores of one cluster, or on an accelerator;
    * replicas: in each cluster some, all with as many cores, in one or several clusters at once;
    * one replica whose kernels are spread over some cores of several clusters;
    * for the whole network, also replicas on CPU cores and accelerators at once: independent frames.

    Options that take more than there is are left out.
    """
    found = [StageOption(((placement, 1),)) for placement in _plain(components, families)] if families.one else []
    found += [StageOption(((placement, 1),)) for placement in _spread(components.cores, families)]
    if families.replicas:
        sets = list(_replica_sets(components.cores))
        found += [StageOption(replicas) for replicas in sets if sum(count for _, count in replicas) > 1]
        found += _independent(components, families, sets)
    fits = {**components.cores, **dict.fromkeys(components.accelerators, 1)}
    hosts = components.accelerators
    return tuple(o for o in found if all(wanted <= fits.get(name, 0) for name, wanted in o.demand(hosts).items()))


def _plain(components: Components, families: Families) -> Iterator[Placement]:
    for cluster, cores in components.cores.items():
        for used in range(1, cores + 1):
            yield Placement((CoreConfiguration(cluster, used),))
    if families.accelerators:
        for name in components.accelerators:
            yield Placement((CoreConfiguration(name, 1),))


def _spread(cores: Mapping[str, int], families: Families) -> Iterator[Placement]:
    allowed: dict[Sharing, bool] = {"equal": families.equal_spread, "by-speed": families.spread_by_speed}
    sharings = [sharing for sharing, is_allowed in allowed.items() if is_allowed]
    used = itertools.product(*(range(count + 1) for count in cores.values()))
    for counts in used:
        chosen = tuple(CoreConfiguration(name, count) for name, count in zip(cores, counts, strict=True) if count)
        if len(chosen) > 1:
            for sharing in sharings:
                yield Placement(chosen, sharing)


def _replica_sets(cores: Mapping[str, int]) -> Iterator[tuple[tuple[Placement, int], ...]]:
    """Yield what replicas may occupy, at least one: in each cluster none, or some with as many cores each."""
    choices: list[list[tuple[Placement, int] | None]] = [[None, *_equal_replicas(*item)] for item in cores.items()]
    for chosen in itertools.product(*choices):
        replicas = tuple(replica for replica in chosen if replica is not None)
        if replicas:
            yield replicas


def _equal_replicas(cluster: str, cores: int) -> Iterator[tuple[Placement, int]]:
    for used in range(1, cores + 1):
        for count in range(1, cores // used + 1):
            yield Placement((CoreConfiguration(cluster, used),)), count


def _independent(
    components: Components, families: Families, sets: Sequence[tuple[tuple[Placement, int], ...]]
) -> Iterable[StageOption]:
    if not families.accelerators:
        return
    for count in range(1, len(components.accelerators) + 1):
        for names in itertools.combinations(components.accelerators, count):
            added = tuple((Placement((CoreConfiguration(name, 1),)), 1) for name in names)
            for replicas in [(), *sets] if count > 1 else sets:
                yield StageOption((*replicas, *added), whole_network=True)
