"""The search against brute force: the same costs for every small network, with every kind of plan and every limit."""

from dataclasses import replace
from itertools import pairwise

import networkx as nx
import numpy as np
import pytest
from brute_force import Costs, all_plans, best_costs, objective_key, plan_costs
from hypothesis import given, settings
from hypothesis import strategies as st

from cospipe.ir.errors import PlanError, UsageError
from cospipe.ir.exploration import Limits
from cospipe.ir.plan import OBJECTIVES, CoreConfiguration
from cospipe.passes.cut_graph import Resources, cut_graph
from cospipe.passes.search import evaluate_plan, search_plan
from cospipe.passes.stage_options import Families

CLUSTERS = ("big", "middle", "little", "tiny")
PLAIN = Families.none()
ROUNDING_US = 2e-5
"""The search counts whole picoseconds, brute force fractions; a plan has a few times that are rounded."""


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
def problems(draw, most_units=4, most_cores=4, extras=True):
    counts = draw(st.lists(st.integers(1, 2), min_size=1, max_size=3).filter(lambda c: sum(c) <= most_cores))
    cores = dict(zip(CLUSTERS, counts, strict=False))
    resources = Resources(cores, draw(st.integers(0, 5)), draw(st.sampled_from([0.5, 1, 2, 4])))
    if extras:
        resources = draw(_with_extras(resources))
    units = draw(st.integers(1, most_units))
    # few distinct times, so that ties are common
    columns = len(resources.configurations())
    times = st.lists(st.integers(0, 6), min_size=columns, max_size=columns)
    model, order = model_of(draw(st.lists(times, min_size=units, max_size=units)), resources)
    for unit in order:
        values = model.nodes[unit]
        more = draw(st.lists(st.integers(0, 2), min_size=columns, max_size=columns))
        values["crowded_us"] = {c: time_us + m for (c, time_us), m in zip(values["time_us"].items(), more, strict=True)}
        values |= {"weight_bytes": draw(st.integers(0, 20)), "tensor_bytes": draw(st.integers(0, 5))}
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


@st.composite
def _with_extras(draw, resources):
    """Add accelerators, contention, a price for spread kernels, power, a limit on stages."""
    hosts = st.sampled_from([None, *resources.cores])
    accelerators = draw(st.dictionaries(st.sampled_from(["gpu", "npu"]), hosts, max_size=1))
    names = [*resources.cores, *accelerators]
    return replace(
        resources,
        max_stages=draw(st.sampled_from([0, 0, 1, 2])),
        accelerators=accelerators,
        contention=draw(st.sampled_from([0, 0.1, 0.15])),
        spread_cost=draw(st.sampled_from([0, 0.25, 0.5])),
        transfer_us={name: draw(st.integers(0, 2)) for name in accelerators},
        power_mw={name: draw(st.sampled_from([1, 100, 300])) for name in names},
        idle_power_mw=draw(st.sampled_from([0, 50, 500])),
    )


def key_of(result, objective) -> list[float]:
    """Costs of a found plan in the order of the objective; energy in nanojoules."""
    costs = Costs(
        result.period_us,
        result.latency_us,
        result.energy_pj / 1000,
        len(result.stages),
        result.power_mw,
        result.memory_bytes,
    )
    return [float(value) for value in objective_key(costs, objective)]


def brute_key(costs, objective) -> list[float]:
    return [float(value) for value in objective_key(costs, objective)]


def check_runs_on(result, units, resources):
    assert [stage.start for stage in result.stages] == [0, *(stage.stop for stage in result.stages[:-1])]
    assert result.stages[-1].stop == units
    assert all(stage.start < stage.stop for stage in result.stages)
    free = {**resources.cores, **dict.fromkeys(resources.accelerators, 1)}
    for stage in result.stages:
        for name, cores in stage.option.demand(resources.accelerators).items():
            free[name] -= cores
    assert min(free.values()) >= 0
    assert len(result.stages) <= (resources.max_stages or units)


@pytest.mark.parametrize("objective", ["throughput", "latency"])
@given(problem=problems())
@settings(max_examples=40, deadline=None)
def test_agrees_with_brute_force_on_every_kind_of_plan(objective, problem):
    model, order, resources = problem
    result = search_plan(model, order, resources, objective)
    check_runs_on(result, len(order), resources)
    best = best_costs(model, order, resources, objective)
    # a picosecond of rounding is worth a nanojoule at a kilowatt
    assert key_of(result, objective) == pytest.approx(brute_key(best, objective), rel=1e-5, abs=2e-2)
    assert key_of(result, objective)[:2] == pytest.approx(brute_key(best, objective)[:2], abs=ROUNDING_US)


@given(problem=problems())
@settings(max_examples=50, deadline=None)
def test_agrees_with_brute_force_on_energy(problem):
    model, order, resources = problem
    result = search_plan(model, order, resources, "energy")
    check_runs_on(result, len(order), resources)
    best = best_costs(model, order, resources, "energy")
    assert result.energy_pj / 1000 == pytest.approx(float(best.energy_nj), rel=1e-5, abs=2e-2)


@pytest.mark.parametrize("objective", OBJECTIVES)
@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_agrees_with_brute_force_within_limits(objective, data):
    model, order, resources = data.draw(problems(most_units=3))
    some = data.draw(
        st.sampled_from([plan_costs(model, order, resources, p) for p in all_plans(len(order), resources)])
    )
    # the limits of some plan, so that there is one and they often bind
    limits = Limits(
        latency_us=data.draw(st.sampled_from([None, float(some.latency_us) + 1e-3])),
        power_mw=data.draw(st.sampled_from([None, float(some.power_mw) + 1e-6])),
        memory_bytes=data.draw(st.sampled_from([None, some.memory_bytes or None])),
    )
    result = search_plan(model, order, resources, objective, limits)
    check_runs_on(result, len(order), resources)
    assert result.latency_us <= (limits.latency_us or np.inf) + ROUNDING_US
    assert result.power_mw <= (limits.power_mw or np.inf)
    assert result.memory_bytes <= (limits.memory_bytes or np.inf)
    best = best_costs(model, order, resources, objective, limits)
    tolerance = 2e-2 if objective == "energy" else ROUNDING_US
    assert key_of(result, objective)[0] == pytest.approx(brute_key(best, objective)[0], rel=1e-5, abs=tolerance)


@pytest.mark.parametrize("objective", ["throughput", "latency"])
@given(problem=problems(most_units=6, most_cores=5, extras=False))
@settings(max_examples=40, deadline=None)
def test_agrees_with_brute_force_on_plain_pipelines(objective, problem):
    model, order, resources = problem
    result = search_plan(model, order, resources, objective, families=PLAIN)
    check_runs_on(result, len(order), resources)
    assert all(stage.option.replica_count == 1 and len(stage.placements[0].cores) == 1 for stage in result.stages)
    best = best_costs(model, order, resources, objective, plain=True)
    assert key_of(result, objective) == pytest.approx(brute_key(best, objective), abs=1e-9)


@pytest.mark.parametrize("objective", ["throughput", "latency"])
@given(problem=problems(), data=st.data())
@settings(max_examples=40, deadline=None)
def test_a_faster_core_never_makes_the_best_plan_worse(objective, problem, data):
    model, order, resources = problem
    before = search_plan(model, order, resources, objective)
    cluster = data.draw(st.sampled_from([*resources.cores, *resources.accelerators]))
    for unit in order:
        for key in ("time_us", "crowded_us"):
            table = model.nodes[unit][key]
            model.nodes[unit][key] = {c: t * (0.5 if c.cluster == cluster else 1) for c, t in table.items()}
    after = search_plan(model, order, resources, objective)
    assert key_of(after, objective)[0] <= key_of(before, objective)[0] + ROUNDING_US


@given(problem=problems())
@settings(max_examples=40, deadline=None)
def test_more_kinds_of_stages_never_make_the_best_plan_worse(problem):
    model, order, resources = problem
    families = [PLAIN, replace(PLAIN, replicas=True), replace(PLAIN, replicas=True, equal_spread=True), Families()]
    periods_us = [search_plan(model, order, resources, families=some).period_us for some in families]
    assert all(more <= fewer + ROUNDING_US for fewer, more in pairwise(periods_us))


@given(problem=problems())
@settings(max_examples=40, deadline=None)
def test_a_plan_evaluated_costs_what_the_search_said(problem):
    model, order, resources = problem
    found = search_plan(model, order, resources, families=Families(replicas=False))
    stages = [(stage.start, stage.stop, stage.placements[0]) for stage in found.stages]
    again = evaluate_plan(model, order, resources, stages)
    assert (again.period_us, again.latency_us, again.memory_bytes) == (
        found.period_us,
        found.latency_us,
        found.memory_bytes,
    )
    assert again.contention == found.contention


def test_four_clusters():
    resources = Resources(dict.fromkeys(CLUSTERS, 1), hand_over_us=1, hand_over_gb_per_s=1)
    times = np.random.default_rng(0).integers(1, 9, size=(5, 4)).tolist()
    model, order = model_of(times, resources, [(f"u{a}", f"u{b}", 500) for a, b in pairwise(range(5))])
    result = search_plan(model, order, resources, families=PLAIN)
    best = best_costs(model, order, resources, "throughput", plain=True)
    assert key_of(result, "throughput") == pytest.approx(brute_key(best, "throughput"), abs=1e-9)


def test_the_number_of_plans_of_one_core_a_cluster():
    resources = Resources({"big": 1, "little": 1}, 1.0, 1.0)
    # two units: one stage on any of two cores, or two stages on the two in either order
    assert len(list(all_plans(2, resources, plain=True))) == 4
    # beside these: a copy on each core, and kernels over both, in equal parts or by speed
    assert len(list(all_plans(2, resources))) == 4 + 3


def test_ties_of_decimal_fractions_are_ties():
    # 0.1 + 0.2 is more than 0.3 in binary; the sums tie, so the fewest stages win
    resources = Resources({"big": 2}, hand_over_us=0.0, hand_over_gb_per_s=1.0)
    model, order = model_of([(0.1, 0.3), (0.2, 0.3), (0.3, 0.3)], resources)
    stages = search_plan(model, order, resources, families=PLAIN).stages
    assert [(stage.start, stage.stop) for stage in stages] == [(0, 2), (2, 3)]


TIES = {
    # the stages before the longest one must not be chosen for being short, but for their sum ...
    "sum": ("throughput", {"big": 3, "little": 1}, 1, "0102 2131 4442 2010 4333", (4, 8, 3)),
    # ... and then for their number
    "number": ("throughput", {"big": 3, "little": 1}, 0, "3202 0303 0023", (2, 2, 1)),
    "number of the fastest": ("latency", {"big": 2, "little": 2}, 1, "4040 0224 3244", (4, 8, 1)),
    # a shorter longest stage at the start is no reason for one stage more when a longer stage follows
    "longest later": ("latency", {"big": 3, "little": 1}, 0, "2113 3000 2423 0330 4323", (3, 6, 2)),
}


@pytest.mark.parametrize("name", TIES)
def test_ties_are_broken_exactly(name):
    objective, cores, hand_over_us, digits, _ = TIES[name]
    resources = Resources(cores, hand_over_us, 1.0)
    model, order = model_of([[int(digit) for digit in row] for row in digits.split()], resources)
    best = best_costs(model, order, resources, objective, plain=True)
    found = search_plan(model, order, resources, objective, families=PLAIN)
    assert key_of(found, objective) == pytest.approx(brute_key(best, objective), abs=1e-9)


@pytest.mark.parametrize("objective", ["throughput", "latency"])
@pytest.mark.parametrize("counts", [(3,), (2, 1), (3, 1), (1, 1, 1), (2, 2), (2, 1, 1)])
def test_agrees_with_brute_force_on_networks_full_of_ties(objective, counts):
    random = np.random.default_rng(sum(counts))
    resources = Resources(dict(zip(CLUSTERS, counts, strict=False)), int(random.integers(2)), 1.0)
    for _ in range(30):
        times = random.integers(0, 5, size=(random.integers(3, 6), sum(counts)))
        model, order = model_of(times.tolist(), resources)
        found = search_plan(model, order, resources, objective, families=PLAIN)
        best = best_costs(model, order, resources, objective, plain=True)
        assert key_of(found, objective) == pytest.approx(brute_key(best, objective), abs=1e-9)


def test_copies_add_their_rates_and_share_the_memory_bus():
    resources = Resources({"big": 1, "little": 1}, 10.0, 1.0, contention=0.1)
    model, order = model_of([(300.0, 600.0)], resources)
    found = search_plan(model, order, resources, families=replace(PLAIN, replicas=True))
    assert found.contention == 1.1
    assert found.period_us == pytest.approx(1.1 / (1 / 300 + 1 / 600), abs=1e-5)
    assert found.latency_us == pytest.approx(1.1 * 600)


def test_kernels_spread_in_equal_parts_wait_for_the_slowest():
    resources = Resources({"big": 1, "little": 1}, 10.0, 1.0, spread_cost=0.2)
    model, order = model_of([(300.0, 400.0), (100.0, 400.0)], resources)
    equal = search_plan(
        model, order, replace(resources, max_stages=1), "latency", families=replace(PLAIN, equal_spread=True)
    )
    speed = search_plan(
        model, order, replace(resources, max_stages=1), "latency", families=replace(PLAIN, spread_by_speed=True)
    )
    assert equal.latency_us == pytest.approx(400.0)  # big:1 alone: 200 + 200, longer by a fifth, is no less
    assert speed.latency_us == pytest.approx(1.2 * (1 / (1 / 300 + 1 / 400) + 1 / (1 / 100 + 1 / 400)), abs=1e-5)


def test_an_accelerator_takes_a_core_to_drive_it():
    resources = Resources({"big": 1}, 0.0, 1.0, accelerators={"gpu": "big"})
    model, order = model_of([(100.0, 60.0), (100.0, 300.0)], resources)
    found = search_plan(model, order, resources)
    assert [stage.option.clusters for stage in found.stages] == [{"big"}]  # both at once would be quicker


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        (Limits(latency_us=50), r"latency: 0.05 ms wanted, no plan has less than 0.1 ms"),
        (Limits(power_mw=800), r"power: 0.8 W wanted, no plan has less than 1.1 W"),
        (Limits(memory_bytes=500_000), r"memory: 0.5 MB wanted, no plan has less than 1 MB"),
        (Limits(latency_us=50, power_mw=800), r"(?s)latency.*power"),
        (Limits(latency_us=120, power_mw=1500), "keeps to each alone"),
    ],
)
def test_limits_nothing_can_meet_are_named(limits, words):
    resources = Resources({"big": 1, "little": 1}, 1.0, 1.0, power_mw={"big": 1000, "little": 100}, idle_power_mw=1000)
    model, order = model_of([(100.0, 300.0)], resources)
    model.nodes["u0"]["weight_bytes"] = 1_000_000
    with pytest.raises(PlanError, match=words):
        search_plan(model, order, resources, limits=limits, families=PLAIN)


def test_a_tensor_that_passes_by_a_stage_costs_it_nothing():
    resources = Resources({"big": 3}, hand_over_us=1.0, hand_over_gb_per_s=1.0)
    skip = [("u0", "u1", 1000), ("u1", "u2", 1000), ("u0", "u2", 1000)]
    model, order = model_of([9.0, 9.0, 9.0], resources, skip)
    stages = search_plan(model, order, resources, families=PLAIN).stages
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


def test_costs_do_not_depend_on_whether_they_are_kept(monkeypatch):
    resources = Resources({"big": 2}, hand_over_us=1.0, hand_over_gb_per_s=1.0)
    model, order = model_of([3.0, 4.0, 5.0], resources)
    kept = search_plan(model, order, resources)
    monkeypatch.setattr("cospipe.passes.stage_costs._MOST_KEPT", 0)
    again = search_plan(model, order, resources)
    assert (again.stages, again.period_us) == (kept.stages, kept.period_us)


def test_the_report_counts_what_was_searched():
    resources = Resources({"big": 1, "little": 1}, hand_over_us=1.0, hand_over_gb_per_s=1.0)
    model, order = model_of([1.0], resources)
    result = search_plan(model, order, resources, families=PLAIN)
    assert (result.positions, result.states) == (2, 2 * 4)
    # one stage on either core, each from two usages (other core used or not), in both phases; each as the only one
    assert result.transitions == 2 * (2 + 2) + 2
    assert result.seconds > 0


def test_a_large_network_takes_seconds():
    resources = Resources({"big": 4, "little": 4}, hand_over_us=30.0, hand_over_gb_per_s=4.0)
    speed = [1 / configuration.cores for configuration in resources.configurations()]
    times = np.random.default_rng(1).uniform(50, 3000, size=(60, 1)) * speed
    model, order = model_of(times.tolist(), resources, [(f"u{a}", f"u{a + 1}", 100_000) for a in range(59)])
    assert search_plan(model, order, resources).seconds < 2


def test_unknown_objective_is_answered_with_all_names():
    resources = Resources({"big": 1}, hand_over_us=1.0, hand_over_gb_per_s=1.0)
    model, order = model_of([1.0], resources)
    with pytest.raises(UsageError, match=r"'speed'.*throughput, latency or energy"):
        search_plan(model, order, resources, "speed")


@pytest.mark.parametrize(
    ("resources", "message"),
    [(Resources({}, 1.0, 1.0), "at least one core"), (Resources({"big": 1}, 1.0, 1.0, -1), "max_stages")],
)
def test_impossible_resources(resources, message):
    model, order = model_of([1.0], Resources({"big": 1}, 1.0, 1.0))
    with pytest.raises(UsageError, match=message):
        search_plan(model, order, resources)


@pytest.mark.parametrize("time_us", [-1.0, float("nan"), float("inf"), 1e15])
def test_times_that_cannot_be_compared(time_us):
    resources = Resources({"big": 1}, hand_over_us=1.0, hand_over_gb_per_s=1.0)
    model, order = model_of([time_us], resources)
    with pytest.raises(PlanError, match="times"):
        search_plan(model, order, resources)


def test_hand_over_that_cannot_be_compared():
    resources = Resources({"big": 1}, hand_over_us=1e15, hand_over_gb_per_s=1.0)
    model, order = model_of([1.0], resources)
    with pytest.raises(PlanError, match="hand-over"):
        search_plan(model, order, resources)


def test_nothing_to_run():
    with pytest.raises(PlanError, match="nothing to run"):
        search_plan(nx.DiGraph(), [], Resources({"big": 1}, 1.0, 1.0))


def test_configurations_of_resources():
    resources = Resources({"big": 2, "little": 1}, 1.0, 1.0)
    assert resources.configurations() == tuple(map(CoreConfiguration.parse, ["big:1", "big:2", "little:1"]))
