"""What a plan may use of a chip, as its description tells."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from cospipe.ir.plan import CoreConfiguration
from cospipe.ir.soc import Cluster, Soc
from cospipe.passes.cut_graph import Resources


def chip_resources(
    soc: Soc,
    cores: str = "",
    max_stages: int = 0,
    accelerators: bool = False,
    clock_mhz: Mapping[str, float] | None = None,
) -> Resources:
    """Return the resources of a chip.

    Parameters
    ----------
    soc : Soc
        The chip.
    cores : str
        Cores that may be used, ``"big:4+little:2"``; a cluster without a number means all of it, empty the whole chip.
    max_stages : int
        Most stages; 0 for no limit but the cores.
    accelerators : bool
        Whether GPU and NPU may be used, as far as they are modelled. Where ``cores`` names no core of the cluster that
        drives one, it is left out.
    clock_mhz : mapping of str to float, optional
        Clock of each cluster; the highest where it is not given.

    Raises
    ------
    UsageError
        When a cluster is unknown, or more cores are asked for than there are.
    """
    allowed = allowed_cores(soc, cores)
    modelled = [a for a in soc.accelerators if a.gflops is not None] if accelerators else []
    hosts: dict[str, str | None] = {a.kind: a.host_cluster for a in modelled}
    usable = {kind: host for kind, host in hosts.items() if host is None or host in allowed}
    clocks = clock_mhz or {}
    power_mw = {c.name: power for c in soc.clusters if (power := core_power_mw(c, clocks.get(c.name)))}
    power_mw |= {a.kind: a.power_mw for a in soc.accelerators if a.kind in usable and a.power_mw is not None}
    return Resources(
        cores=allowed,
        hand_over_us=soc.hand_over_us,
        hand_over_gb_per_s=soc.hand_over_gb_per_s,
        max_stages=max_stages,
        accelerators=usable,
        contention=soc.contention,
        spread_cost=soc.spread_cost,
        transfer_us={a.kind: a.hand_over_us for a in modelled if a.hand_over_us},
        power_mw=power_mw,
        idle_power_mw=soc.idle_power_mw or 0.0,
    )


def core_power_mw(cluster: Cluster, clock_mhz: float | None = None) -> float | None:
    """Return what one busy core adds to the idle board's power at a clock level, the highest by default."""
    if not cluster.core_power_mw:
        return None
    level = cluster.clock_mhz.index(clock_mhz) if clock_mhz else -1
    return cluster.core_power_mw[level]


def knows_power(soc: Soc) -> bool:
    """Tell whether energy can be predicted: the idle board's power and that of every cluster are known."""
    return soc.idle_power_mw is not None and all(cluster.core_power_mw for cluster in soc.clusters)


def allowed_cores(soc: Soc, text: str) -> dict[str, int]:
    """Read which cores may be used; see :func:`chip_resources`."""
    if not text:
        return {cluster.name: cluster.cores for cluster in soc.clusters}
    wanted = [_parse_cores(soc, part.strip()) for part in text.split("+")]
    soc.check_cores(wanted)
    allowed = Counter[str]()
    for configuration in wanted:
        allowed[configuration.cluster] += configuration.cores
    return {cluster.name: allowed[cluster.name] for cluster in soc.clusters if allowed[cluster.name]}


def _parse_cores(soc: Soc, text: str) -> CoreConfiguration:
    if ":" in text:
        return CoreConfiguration.parse(text)
    return CoreConfiguration(text, soc.cluster(text).cores)
