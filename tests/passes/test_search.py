"""The search against brute force: the same costs, to the last picosecond, for every small network."""

from itertools import pairwise

import networkx as nx
import numpy as np
import pytest
from brute_force import Costs, all_pipelines, best_costs, pipeline_costs, stage_us
from hypothesis import given, settings
from hypothesis import strategies as st

from cospipe.ir.errors import PlanError, UsageError
from cospipe.ir.plan import CoreConfiguration
from cospipe.passes.cut_graph import Resources, cut_graph
from cospipe.passes.search import search_pipeline

OBJECTIVES = ["throughput", "latency"]
CLUSTERS = ("big", "middle", "little", "tiny")


def model_of(times_us, resources, edges=()):
    """Units u0, u1, ... with one time each (the same on all cores) or one a configuration; edges (from, to, bytes)."""
    model = nx.DiGraph()
    configurations = resources.configurations()
    for index, times in enumerate(times_us):
        row = times if isinstance(times, (list, tuple)) else [times] * len(configurations)
        model.add_node(f"u{index}", time_us=dict(zip(configurations, row, strict=True)))
    for producer, reader, size in edges:
        model.add_edge(producer, reader, values={producer: size})
    return model, [f"u{index}" for index in range(len(times_us))]


@st.composite
def problems(draw, most_units=6, most_cores=5):
    counts = draw(st.lists(st.integers(1, 3), min_size=1, max_size=3).filter(lambda c: sum(c) <= most_cores))
    resources = Resources(
        cores=dict(zip(CLUSTERS, counts, strict=False)),
        hand_over_us=draw(st.integers(0, 5)),
        hand_over_gb_per_s=draw(st.sampled_from([0.5, 1, 2, 4])),
    )
    units = draw(st.integers(1, most_units))
    # few distinct times, so that ties are common
    times = st.lists(st.integers(0, 6), min_size=sum(counts), max_size=sum(counts))
    model, order = model_of(draw(st.lists(times, min_size=units, max_size=units)), resources)
    nodes = ["x", *order]
    pairs = [(a, b) for j, b in enumerate(nodes) for a in nodes[:j]]
    for producer, reader in draw(st.lists(st.sampled_from(pairs), unique=True)):
        # one value for all readers, or one of its own
        names = draw(st.sampled_from([[producer], [f"{producer}_to_{reader}"], [producer, f"{producer}_to_{reader}"]]))
        values = {name: 1000 * (1 + nodes.index(producer)) for name in names}
        model.add_edge(producer, reader, values=values)
    if "x" in model:
        model.nodes["x"]["is_input"] = True
    return model, order, resources


def costs_of(model, order, resources, result) -> Costs:
    """Costs of the pipeline that the search found, computed from its stages by the definition."""
    stages = [(stage.start, stage.stop, stage.configuration) for stage in result.stages]
    return pipeline_costs([stage_us(model, order, resources, stage) for stage in stages])


def check_runs_on(result, units, resources):
    assert [stage.start for stage in result.stages] == [0, *(stage.stop for stage in result.stages[:-1])]
    assert result.stages[-1].stop == units
    assert all(stage.start < stage.stop for stage in result.stages)
    for cluster, cores in resources.cores.items():
        assert sum(s.configuration.cores for s in result.stages if s.configuration.cluster == cluster) <= cores


@pytest.mark.parametrize("objective", OBJECTIVES)
@given(problem=problems())
@settings(max_examples=300, deadline=None)
def test_agrees_with_brute_force(objective, problem):
    model, order, resources = problem
    result = search_pipeline(model, order, resources, objective)
    check_runs_on(result, len(order), resources)
    assert costs_of(model, order, resources, result) == best_costs(model, order, resources, objective)


@pytest.mark.parametrize("objective", OBJECTIVES)
@given(problem=problems(most_units=5), max_stages=st.integers(1, 4))
@settings(max_examples=60, deadline=None)
def test_agrees_with_brute_force_when_stages_are_limited(objective, problem, max_stages):
    model, order, resources = problem
    resources = Resources(resources.cores, resources.hand_over_us, resources.hand_over_gb_per_s, max_stages)
    result = search_pipeline(model, order, resources, objective)
    assert len(result.stages) <= max_stages
    assert costs_of(model, order, resources, result) == best_costs(model, order, resources, objective)


@given(problem=problems())
@settings(max_examples=60, deadline=None)
def test_stage_times_add_up_to_the_costs(problem):
    model, order, resources = problem
    for stage in search_pipeline(model, order, resources).stages:
        exact = stage_us(model, order, resources, (stage.start, stage.stop, stage.configuration))
        assert stage.compute_us + stage.hand_over_us == pytest.approx(float(exact), abs=1e-6)


def test_four_clusters():
    resources = Resources(dict.fromkeys(CLUSTERS, 1), hand_over_us=1, hand_over_gb_per_s=1)
    times = np.random.default_rng(0).integers(1, 9, size=(5, 4)).tolist()
    model, order = model_of(times, resources, [(f"u{a}", f"u{b}", 500) for a, b in pairwise(range(5))])
    result = search_pipeline(model, order, resources)
    assert costs_of(model, order, resources, result) == best_costs(model, order, resources, "throughput")


def test_the_number_of_pipelines_of_one_core_a_cluster():
    # two units: one stage on any of two cores, or two stages on the two in either order
    assert len(list(all_pipelines(2, {"big": 1, "little": 1}, 2))) == 4


def test_ties_of_decimal_fractions_are_ties():
    # 0.1 + 0.2 is more than 0.3 in binary; the sums tie, so the fewest stages win
    resources = Resources({"big": 2}, hand_over_us=0.0, hand_over_gb_per_s=1.0)
    model, order = model_of([(0.1, 0.3), (0.2, 0.3), (0.3, 0.3)], resources)
    stages = search_pipeline(model, order, resources).stages
    assert [(stage.start, stage.stop) for stage in stages] == [(0, 2), (2, 3)]


TIES = {
    # the stages before the longest one must not be chosen for being short, but for their sum ...
    "sum": ("throughput", {"big": 3, "little": 1}, 1, "0102 2131 4442 2010 4333", Costs(4, 8, 3)),
    # ... and then for their number
    "number": ("throughput", {"big": 3, "little": 1}, 0, "3202 0303 0023", Costs(2, 2, 1)),
    "number of the fastest": ("latency", {"big": 2, "little": 2}, 1, "4040 0224 3244", Costs(4, 4, 1)),
    # a shorter longest stage at the start is no reason for one stage more when a longer stage follows
    "longest later": ("latency", {"big": 3, "little": 1}, 0, "2113 3000 2423 0330 4323", Costs(3, 6, 2)),
}


@pytest.mark.parametrize(("objective", "cores", "hand_over_us", "digits", "costs"), TIES.values(), ids=TIES.keys())
def test_ties_are_broken_exactly(objective, cores, hand_over_us, digits, costs):
    resources = Resources(cores, hand_over_us, 1.0)
    model, order = model_of([[int(digit) for digit in row] for row in digits.split()], resources)
    assert best_costs(model, order, resources, objective) == costs
    assert costs_of(model, order, resources, search_pipeline(model, order, resources, objective)) == costs


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("counts", [(3,), (2, 1), (3, 1), (1, 1, 1), (2, 2), (2, 1, 1), (3, 2)])
def test_agrees_with_brute_force_on_networks_full_of_ties(objective, counts):
    random = np.random.default_rng(sum(counts))
    resources = Resources(dict(zip(CLUSTERS, counts, strict=False)), int(random.integers(2)), 1.0)
    for _ in range(60):
        times = random.integers(0, 5, size=(random.integers(3, 7), sum(counts)))
        model, order = model_of(times.tolist(), resources)
        found = search_pipeline(model, order, resources, objective)
        assert costs_of(model, order, resources, found) == best_costs(model, order, resources, objective)


def test_a_tensor_that_passes_by_a_stage_costs_it_nothing():
    resources = Resources({"big": 3}, hand_over_us=1.0, hand_over_gb_per_s=1.0)
    skip = [("u0", "u1", 1000), ("u1", "u2", 1000), ("u0", "u2", 1000)]
    model, order = model_of([9.0, 9.0, 9.0], resources, skip)
    stages = search_pipeline(model, order, resources).stages
    assert [stage.hand_over_bytes for stage in stages] == [0, 1000, 2000]
    assert [stage.hand_over_us for stage in stages] == [0.0, 2.0, 3.0]


def test_a_value_read_twice_is_handed_over_once_and_inputs_count_after_the_first_stage():
    resources = Resources({"big": 1, "little": 1}, hand_over_us=1.0, hand_over_gb_per_s=1.0)
    edges = [("x", "u0", 64), ("u0", "u1", 8), ("u0", "u2", 8), ("x", "u2", 64)]
    model, order = model_of([1.0, 1.0, 1.0], resources, edges)
    cuts = cut_graph(model, order, resources)
    assert cuts.edges[1, 3]["hand_over_bytes"] == 8 + 64
    assert cuts.edges[1, 2]["hand_over_bytes"] == 8
    assert cuts.edges[0, 3]["hand_over_bytes"] == 0


def test_the_cut_graph_is_a_complete_order():
    resources = Resources({"big": 2, "little": 1}, hand_over_us=1.0, hand_over_gb_per_s=1.0)
    model, order = model_of([1.0] * 4, resources)
    cuts = cut_graph(model, order, resources)
    assert cuts.number_of_edges() == 4 * 5 // 2
    assert nx.is_directed_acyclic_graph(cuts)
    assert all(edge["times_ps"].shape == (3,) for _, _, edge in cuts.edges(data=True))


def test_the_report_counts_what_was_searched():
    resources = Resources({"big": 1, "little": 1}, hand_over_us=1.0, hand_over_gb_per_s=1.0)
    model, order = model_of([1.0], resources)
    result = search_pipeline(model, order, resources)
    assert (result.positions, result.states) == (2, 2 * 4)
    # one stage on either core, each from two usages (other core used or not), in both phases
    assert result.transitions == 2 * (2 + 2)
    assert result.seconds > 0


def test_a_large_network_takes_seconds():
    resources = Resources({"big": 4, "little": 4}, hand_over_us=30.0, hand_over_gb_per_s=4.0)
    speed = [1 / configuration.cores for configuration in resources.configurations()]
    times = np.random.default_rng(1).uniform(50, 3000, size=(60, 1)) * speed
    model, order = model_of(times.tolist(), resources, [(f"u{a}", f"u{a + 1}", 100_000) for a in range(59)])
    assert search_pipeline(model, order, resources).seconds < 2


def test_unknown_objective_is_answered_with_both_names():
    resources = Resources({"big": 1}, hand_over_us=1.0, hand_over_gb_per_s=1.0)
    model, order = model_of([1.0], resources)
    with pytest.raises(UsageError, match=r"'speed'.*throughput or latency"):
        search_pipeline(model, order, resources, "speed")


@pytest.mark.parametrize(
    ("resources", "message"),
    [(Resources({}, 1.0, 1.0), "at least one core"), (Resources({"big": 1}, 1.0, 1.0, -1), "max_stages")],
)
def test_impossible_resources(resources, message):
    model, order = model_of([1.0], Resources({"big": 1}, 1.0, 1.0))
    with pytest.raises(UsageError, match=message):
        search_pipeline(model, order, resources)


@pytest.mark.parametrize("time_us", [-1.0, float("nan"), float("inf"), 1e15])
def test_times_that_cannot_be_compared(time_us):
    resources = Resources({"big": 1}, hand_over_us=1.0, hand_over_gb_per_s=1.0)
    model, order = model_of([time_us], resources)
    with pytest.raises(PlanError, match="times"):
        search_pipeline(model, order, resources)


def test_hand_over_that_cannot_be_compared():
    resources = Resources({"big": 1}, hand_over_us=1e15, hand_over_gb_per_s=1.0)
    model, order = model_of([1.0], resources)
    with pytest.raises(PlanError, match="hand-over"):
        search_pipeline(model, order, resources)


def test_nothing_to_run():
    with pytest.raises(PlanError, match="nothing to run"):
        search_pipeline(nx.DiGraph(), [], Resources({"big": 1}, 1.0, 1.0))


def test_configurations_of_resources():
    resources = Resources({"big": 2, "little": 1}, 1.0, 1.0)
    assert resources.configurations() == tuple(map(CoreConfiguration.parse, ["big:1", "big:2", "little:1"]))
