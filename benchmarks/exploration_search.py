"""The exact search against what others would do, with one model of the chip for both.

Each baseline is held against the search over plans of its own kind (pipelines against pipelines, and so on), and then
against the search over everything a bundle can run, and over everything the chip has.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median

import networkx as nx
from environment import Row
from models import load_network
from torch import fx

from cospipe.ir.capture import capture
from cospipe.ir.soc import Soc
from cospipe.passes.annotate_latency import AnnotateLatency
from cospipe.passes.annotate_layers import AnnotateLayers
from cospipe.passes.baselines import (
    ALL_CORES,
    BIG_LITTLE,
    FASTEST_CLUSTER,
    PIPE_IT,
    TWO_WAY,
    baselines,
    period_us,
)
from cospipe.passes.cut_graph import Resources
from cospipe.passes.fold_batch_norm import FoldBatchNorm
from cospipe.passes.model_graph import cheap_order, model_graph
from cospipe.passes.partition import RUNNABLE
from cospipe.passes.pipeline import PassManager
from cospipe.passes.plan_costs import SearchResult
from cospipe.passes.resources import chip_resources
from cospipe.passes.search import search_plan
from cospipe.passes.stage_options import Families

_CLOSE = 1 + 1e-9


@dataclass(frozen=True)
class SearchedKind:
    """Plans that one search weighs, and the baselines whose plans are among them."""

    families: Families
    accelerators: bool
    baselines: Sequence[str]


KINDS = {
    "pipelines": SearchedKind(Families.none(), False, (FASTEST_CLUSTER, PIPE_IT, BIG_LITTLE)),
    "runnable": SearchedKind(RUNNABLE, False, (FASTEST_CLUSTER, ALL_CORES, PIPE_IT, BIG_LITTLE)),
    "everything": SearchedKind(Families(), True, (FASTEST_CLUSTER, ALL_CORES, PIPE_IT, BIG_LITTLE, TWO_WAY)),
}


def search_rows(specs: Sequence[str], socs: Sequence[Soc]) -> list[Row]:
    """Return a row for each network, chip, kind of search and baseline, and a summary of each kind and baseline.

    Parameters
    ----------
    specs : sequence of str
        Networks, ``package.module:factory``.
    socs : sequence of Soc
        Described chips; their latencies are predicted by the analytic model.
    """
    rows: list[Row] = []
    for spec in specs:
        graph_module = _captured(spec)
        for soc in socs:
            print(f"  {spec.partition(':')[2]} on {soc.name}", file=sys.stderr)
            AnnotateLatency(soc=soc.name)(graph_module)
            model = model_graph(graph_module.graph)
            rows += [{"section": "search", "network": spec, "soc": soc.name, **row} for row in _searched(model, soc)]
    return [*rows, *_summaries(rows)]


def _captured(spec: str) -> fx.GraphModule:
    network = load_network(spec, (), keep_weights=True)
    graph_module = capture(network.module, network.inputs)
    return PassManager((FoldBatchNorm(), AnnotateLayers()))(graph_module).graph_module


def _searched(model: nx.DiGraph[str], soc: Soc) -> Iterator[Row]:
    order = cheap_order(model)
    for name, kind in KINDS.items():
        resources = chip_resources(soc, accelerators=kind.accelerators)
        found = search_plan(model, order, resources, "throughput", families=kind.families)
        for baseline, baseline_us in _baseline_periods_us(model, order, resources).items():
            if baseline in kind.baselines:
                yield _row(name, found, baseline, baseline_us, len(order))


def _baseline_periods_us(model: nx.DiGraph[str], order: Sequence[str], resources: Resources) -> dict[str, float]:
    found = baselines(model, order, resources)
    return {name: period_us(stages, model, order, resources) for name, stages in found.items()}


def _row(searched: str, found: SearchResult, baseline: str, baseline_us: float, units: int) -> dict[str, object]:
    return {
        "searched": searched,
        "units": units,
        "stages": len(found.stages),
        "replicas": sum(len(stage.placements) for stage in found.stages),
        "period_us": found.period_us,
        "baseline": baseline,
        "baseline_period_us": baseline_us,
        "baseline_over_search": baseline_us / found.period_us,
        "never_worse": found.period_us <= baseline_us * _CLOSE,
        "states": found.states,
        "seconds": found.seconds,
    }


def _summaries(rows: Sequence[Row]) -> Iterator[Row]:
    for searched, kind in KINDS.items():
        for baseline in kind.baselines:
            chosen = [row for row in rows if (row["searched"], row["baseline"]) == (searched, baseline)]
            if chosen:
                yield _summary(chosen)


def _summary(rows: Sequence[Row]) -> Row:
    ratios = [float(row["baseline_over_search"] or 0) for row in rows]
    seconds = [float(row["seconds"] or 0) for row in rows]
    better = sum(ratio > _CLOSE for ratio in ratios)
    return {
        **dict.fromkeys(rows[0]),
        "section": "search",
        "network": f"better in {better} of {len(rows)}, at most {max(ratios):.2f} times",
        "soc": "all",
        "searched": rows[0]["searched"],
        "baseline": rows[0]["baseline"],
        "baseline_over_search": median(ratios),
        "never_worse": all(row["never_worse"] for row in rows),
        "seconds": max(seconds),
    }
