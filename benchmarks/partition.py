"""How long the search for a plan takes, and whether brute force agrees, as layers, cores and clusters grow.

``kinds`` is ``pipeline`` for stages of one replica on one cluster, ``all`` for every kind of plan at once: replicas,
kernels over several clusters, mixtures.

Networks are random: layers of about 50 to 3000 microseconds on one fast core, each read by the next and some by a
later one as well; how well a layer suits each cluster differs by up to half. Brute force weighs every pipeline where
there are few enough.
"""

from __future__ import annotations

from typing import Annotated

import networkx as nx
import numpy as np
import typer
from brute_force import best_costs, objective_key
from environment import JsonFile, Row, print_rows, write_rows

from cospipe.passes.cut_graph import Resources
from cospipe.passes.plan_costs import SearchResult
from cospipe.passes.search import search_plan
from cospipe.passes.stage_options import Families

# layers, and cores of each cluster, fastest first
Case = tuple[int, tuple[int, ...]]
CHECKED: dict[str, list[Case]] = {
    "pipeline": [(4, (2, 2)), (5, (4, 4)), (6, (2, 2)), (6, (1, 1, 2)), (8, (2, 2)), (10, (2, 1)), (12, (1, 1, 1))],
    "all": [(3, (2, 2)), (4, (2, 1)), (4, (1, 1, 1)), (6, (1, 1))],
}
GROWING: list[Case] = [
    # layers
    (15, (4, 4)),
    (30, (4, 4)),
    (60, (4, 4)),
    (120, (4, 4)),
    (240, (4, 4)),
    # cores
    (60, (2, 2)),
    (60, (8, 8)),
    # clusters
    (60, (1, 3, 4)),
    (60, (2, 2, 2, 2)),
    (150, (1, 3, 4)),
    (300, (1, 3, 4)),
]
SPEEDS = (1.0, 0.7, 0.3, 0.2)
OBJECTIVES = ("throughput", "latency")
FAMILIES = {"pipeline": Families.none(), "all": Families()}


def main(
    json: JsonFile = "",
    seed: Annotated[int, typer.Option(help="Seed of the random networks.")] = 0,
) -> None:
    """Measure the pipeline search on random networks.

    Example: python benchmarks/partition.py --json -
    """
    rows = [
        measure(case, kinds, objective, seed, is_checked)
        for kinds, checked in CHECKED.items()
        for is_checked, cases in ((True, checked), (False, GROWING))
        for case in cases
        for objective in OBJECTIVES
    ]
    if json:
        write_rows(rows, json)
    if json != "-":
        print_rows("Plan search", rows)


def measure(case: Case, kinds: str, objective: str, seed: int, checked: bool) -> Row:
    """Search one random network; ``optimal`` is None where there are too many plans for brute force."""
    layers, cores = case
    resources = Resources(
        {f"cluster{k}": count for k, count in enumerate(cores)}, 30.0, 4.0, contention=0.1, spread_cost=0.25
    )
    model = random_network(layers, resources, seed)
    order = [unit for unit in model if unit != "input"]
    found = search_plan(model, order, resources, objective, families=FAMILIES[kinds])
    return {
        "layers": layers,
        "clusters": len(cores),
        "cores": "+".join(map(str, cores)),
        "kinds": kinds,
        "objective": objective,
        "seconds": found.seconds,
        "states": found.states,
        "transitions": found.transitions,
        "optimal": is_optimal(model, order, resources, objective, kinds, found) if checked else None,
        "period_us": found.period_us,
        "stages": len(found.stages),
    }


def is_optimal(
    model: nx.DiGraph[str], order: list[str], resources: Resources, objective: str, kinds: str, found: SearchResult
) -> bool:
    """Compare with the best of all plans, to the last nanosecond."""
    best = best_costs(model, order, resources, objective, plain=kinds == "pipeline")
    if best is None:
        return False
    ours = (found.period_us, found.latency_us) if objective == "throughput" else (found.latency_us, found.period_us)
    theirs = [float(value) for value in objective_key(best, objective)[:2]]
    return bool(np.allclose(ours, theirs, rtol=0, atol=1e-3))


def random_network(layers: int, resources: Resources, seed: int) -> nx.DiGraph[str]:
    """Return a chain of layers with skip connections; tensors of 10 to 800 kB."""
    random = np.random.default_rng(seed)
    speeds = {name: SPEEDS[index] for index, name in enumerate(resources.cores)}
    model: nx.DiGraph[str] = nx.DiGraph()
    model.add_node("input", is_input=True)
    names = ["input", *(f"layer{index}" for index in range(layers))]
    sizes = {name: int(random.integers(10_000, 800_000)) for name in names}
    for index, name in enumerate(names[1:]):
        alone_us = float(random.uniform(50, 3000))
        suits = {cluster: float(random.uniform(0.5, 1.5)) for cluster in speeds}
        times_us = {
            configuration: alone_us
            / (speeds[configuration.cluster] * suits[configuration.cluster] * configuration.cores**0.8)
            for configuration in resources.configurations()
        }
        model.add_node(name, time_us=times_us)
        skipped = max(0, index - int(random.integers(0, 6)))
        for producer in {names[index], names[skipped]}:
            model.add_edge(producer, name, values={producer: sizes[producer]})
    return model


if __name__ == "__main__":
    typer.run(main)
