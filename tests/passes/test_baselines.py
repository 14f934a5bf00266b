"""The baselines against brute force over pipelines, written here from the definition, and cases worked out by hand."""

import itertools

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cospipe.ir.errors import PlanError
from cospipe.ir.plan import CoreConfiguration
from cospipe.passes.baselines import (
    ALL_CORES,
    BIG_LITTLE,
    FASTEST_CLUSTER,
    PIPE_IT,
    TWO_WAY,
    baselines,
    find_split,
    merge_stage,
    period_us,
    work_flow,
)
from cospipe.passes.cut_graph import Resources

BYTES_BETWEEN = 1000


def cores(text):
    return CoreConfiguration.parse(text)


def chain_of(times_us, resources):
    """Units u0, u1, ... in a row, 1000 bytes from each to the next; times_us[unit][configuration]."""
    model = nx.DiGraph()
    names = [f"u{index}" for index in range(len(times_us))]
    for name, row in zip(names, times_us, strict=True):
        model.add_node(name, time_us=dict(zip(resources.configurations(), map(float, row), strict=True)))
    for producer, reader in itertools.pairwise(names):
        model.add_edge(producer, reader, values={producer: BYTES_BETWEEN})
    return model, names


def all_pipelines(units, free, start=0):
    """Every way to cut units into (start, stop, configuration) on cores that fit side by side."""
    if start == units:
        yield ()
        return
    for cluster, count in free.items():
        for used in range(1, count + 1):
            for stop in range(start + 1, units + 1):
                for rest in all_pipelines(units, {**free, cluster: count - used}, stop):
                    yield ((start, stop, CoreConfiguration(cluster, used)), *rest)


def by_definition_us(stages, model, names, resources):
    """Longest stage with its hand-over, and everything longer for each further cluster or accelerator."""
    hand_over_us = resources.hand_over_us + BYTES_BETWEEN / (resources.hand_over_gb_per_s * 1e3)
    times_us = [
        sum(model.nodes[unit]["time_us"][configuration] for unit in names[start:stop]) + (hand_over_us if start else 0)
        for start, stop, configuration in stages
    ]
    clusters = {configuration.cluster for _, _, configuration in stages}
    return max(times_us) * (1 + resources.contention * (len(clusters) - 1))


def as_triples(stages):
    return [(stage.start, stage.stop, stage.placement.cores[0]) for stage in stages]


@st.composite
def problems(draw, most_units=6):
    resources = Resources(
        cores={"big": draw(st.integers(1, 2)), "little": draw(st.integers(1, 2))},
        hand_over_us=draw(st.integers(0, 3)),
        hand_over_gb_per_s=1.0,
        contention=draw(st.sampled_from([0.0, 0.1])),
    )
    units = draw(st.integers(1, most_units))
    one_core = draw(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=units, max_size=units))
    # what n cores gain is up to the layer, as measured times have it
    gains = draw(st.lists(st.sampled_from([1.0, 0.9, 0.6, 0.5]), min_size=units, max_size=units))
    speed = {"big": [0], "little": [1]}
    times_us = [
        [row[speed[c.cluster][0]] * (gain if c.cores > 1 else 1.0) for c in resources.configurations()]
        for row, gain in zip(one_core, gains, strict=True)
    ]
    return (*chain_of(times_us, resources), resources)


@given(problem=problems())
@settings(max_examples=150, deadline=None)
def test_none_is_better_than_the_best_of_all_pipelines(problem):
    model, names, resources = problem
    best_us = min(
        by_definition_us(stages, model, names, resources) for stages in all_pipelines(len(names), resources.cores)
    )
    for name, stages in baselines(model, names, resources).items():
        assert [stage.start for stage in stages] == [0, *(stage.stop for stage in stages[:-1])]
        assert stages[-1].stop == len(names)
        if name != ALL_CORES:
            found_us = by_definition_us(as_triples(stages), model, names, resources)
            assert period_us(stages, model, names, resources) == pytest.approx(found_us, abs=1e-6)
            assert found_us >= best_us - 1e-9
            used = [configuration for _, _, configuration in as_triples(stages)]
            for cluster, count in resources.cores.items():
                assert sum(c.cores for c in used if c.cluster == cluster) <= count


@given(problem=problems())
@settings(max_examples=100, deadline=None)
def test_the_two_way_split_is_the_best_of_all_two_way_splits(problem):
    model, names, resources = problem
    whole = [CoreConfiguration(name, count) for name, count in resources.cores.items()]
    plans = [((0, len(names), component),) for component in whole]
    for first, second in (whole, whole[::-1]):
        plans += [((0, cut, first), (cut, len(names), second)) for cut in range(1, len(names))]
    best_us = min(by_definition_us(stages, model, names, resources) for stages in plans)
    found = baselines(model, names, resources)
    assert period_us(found[BIG_LITTLE], model, names, resources) == pytest.approx(best_us, abs=1e-6)
    alone_us = min(by_definition_us(plan, model, names, resources) for plan in plans[:2])
    assert period_us(found[FASTEST_CLUSTER], model, names, resources) == pytest.approx(alone_us, abs=1e-6)


def random_chain(seed, units=7):
    random = np.random.default_rng(seed)
    resources = Resources({"big": 2, "little": 2}, hand_over_us=0.0, hand_over_gb_per_s=1e6)
    alone = random.integers(1, 30, size=units)
    speeds = np.array([1.0, 0.55, 2.5, 1.4])  # big:1, big:2, little:1, little:2
    suits = random.uniform(0.8, 1.25, size=(units, 4))
    return (*chain_of((alone[:, np.newaxis] * speeds * suits).tolist(), resources), resources)


def test_pipe_it_misses_the_best_pipeline_now_and_then():
    ratios = []
    for seed in range(12):
        model, names, resources = random_chain(seed)
        pipelines = all_pipelines(len(names), resources.cores)
        best_us = min(by_definition_us(stages, model, names, resources) for stages in pipelines)
        stages = baselines(model, names, resources)[PIPE_IT]
        ratios.append(period_us(stages, model, names, resources) / best_us)
    assert min(ratios) == pytest.approx(1.0, abs=1e-6)
    assert 1.005 < max(ratios) < 1.5


def test_find_split_by_hand():
    # 4 + 3 + 2 + 1 on the first, twice that on the second: 7 against 6 is the shortest longer stage
    assert find_split([4, 3, 2, 1], [8, 6, 4, 2]) == 2
    assert find_split([4, 3, 2, 1], [1000] * 4) == 4
    assert find_split([4, 3, 2, 1], [0, 0, 0, 0]) == 0
    assert find_split([], []) == 0


def test_a_layer_that_takes_no_time_does_not_stop_the_flow():
    assert find_split([5, 5, 0], [5, 5, 0]) == 1


@given(times=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=8))
def test_find_split_finds_the_shortest_longer_stage(times):
    first, second = [t for t, _ in times], [t for _, t in times]
    longer = [max(sum(first[:kept]), sum(second[kept:])) for kept in range(len(times) + 1)]
    assert longer[find_split(first, second)] == min(longer)


def test_work_flow_by_hand():
    # 12 equal layers on stages of speed 3, 2 and 1: the layers flow down to 6, 4 and 2
    assert work_flow([[1] * 12, [1.5] * 12, [3] * 12]) == (0, 6, 10, 12)
    assert work_flow([[1] * 12]) == (0, 12)
    assert work_flow([[1], [2], [3]]) == (0, 1, 1, 1)


@given(
    times=st.integers(1, 4).flatmap(
        lambda stages: st.lists(st.lists(st.integers(0, 9), min_size=stages, max_size=stages), min_size=1, max_size=8)
    )
)
def test_work_flow_never_loses_to_its_first_stage_alone(times):
    on_stage = list(zip(*times, strict=True))
    bounds = work_flow(on_stage)
    assert list(bounds) == sorted(bounds)
    assert (bounds[0], bounds[-1], len(bounds)) == (0, len(times), len(on_stage) + 1)
    spans = itertools.pairwise(bounds)
    assert max(sum(row[a:b]) for row, (a, b) in zip(on_stage, spans, strict=True)) <= sum(on_stage[0])


def test_merge_stage_by_hand():
    # two cores share a layer without loss, so one layer is fastest on both big ones; little cores have nothing to do
    one_layer = {cores("big:1"): [10.0], cores("big:2"): [5.0], cores("little:1"): [40.0]}
    assert as_triples(merge_stage(one_layer, {"big": 2, "little": 1})) == [(0, 1, cores("big:2"))]
    # two cores gain nothing on a layer, so each takes one
    no_gain = {cores("big:1"): [10.0, 10.0], cores("big:2"): [10.0, 10.0]}
    assert as_triples(merge_stage(no_gain, {"big": 2})) == [(0, 1, cores("big:1")), (1, 2, cores("big:1"))]


def test_merge_stage_does_not_merge_across_clusters():
    alone = {cores("big:1"): [10.0], cores("little:1"): [30.0]}
    assert as_triples(merge_stage(alone, {"big": 1, "little": 1})) == [(0, 1, cores("big:1"))]


@given(problem=problems(), factor=st.sampled_from([0.5, 2.0, 4.0]))
@settings(max_examples=60, deadline=None)
def test_a_chip_that_is_faster_all_over_gets_the_same_pipe_it_plan(problem, factor):
    model, names, resources = problem
    times = {c: [model.nodes[unit]["time_us"][c] for unit in names] for c in resources.configurations()}
    scaled = {c: [time_us * factor for time_us in row] for c, row in times.items()}
    assert merge_stage(times, resources.cores) == merge_stage(scaled, resources.cores)


@given(problem=problems(), faster=st.floats(1, 5))
@settings(max_examples=60, deadline=None)
def test_a_faster_cluster_never_worsens_two_way_splits(problem, faster):
    model, names, resources = problem
    before_us = period_us(baselines(model, names, resources)[BIG_LITTLE], model, names, resources)
    for unit in names:
        times_us = model.nodes[unit]["time_us"]
        times_us.update({c: time_us / faster for c, time_us in times_us.items() if c.cluster == "little"})
    after_us = period_us(baselines(model, names, resources)[BIG_LITTLE], model, names, resources)
    assert after_us <= before_us + 1e-6


def test_all_cores_take_equal_rows_and_the_spread_cost():
    resources = Resources({"big": 2, "little": 2}, hand_over_us=1.0, hand_over_gb_per_s=1.0, spread_cost=0.25)
    # two big cores need 8 us, two little ones 20; half of the rows each: 10 us, a quarter more for the bus
    model, names = chain_of([[15, 8, 38, 20]], resources)
    stages = baselines(model, names, resources)[ALL_CORES]
    assert [stage.placement.cores for stage in stages] == [(cores("big:2"), cores("little:2"))]
    assert period_us(stages, model, names, resources) == pytest.approx(12.5)


def test_accelerators_take_part_in_two_way_splits():
    resources = Resources(
        {"big": 1}, hand_over_us=0.0, hand_over_gb_per_s=1.0, contention=0.1, accelerators={"gpu": None}
    )
    model, names = chain_of([[10, 3], [3, 10]], resources)
    found = baselines(model, names, resources)
    assert set(found) == {FASTEST_CLUSTER, PIPE_IT, TWO_WAY}
    assert as_triples(found[TWO_WAY]) == [(0, 1, cores("gpu:1")), (1, 2, cores("big:1"))]
    # 3 us and a hand-over of 1 us, 10 % more because both work at once
    assert period_us(found[TWO_WAY], model, names, resources) == pytest.approx(4.4)


def test_an_accelerator_does_not_share_the_cluster_that_drives_it():
    resources = Resources({"big": 1}, hand_over_us=0.0, hand_over_gb_per_s=1.0, accelerators={"gpu": "big"})
    model, names = chain_of([[10, 4], [4, 10]], resources)
    found = baselines(model, names, resources)[TWO_WAY]
    assert len(found) == 1


def test_nothing_to_run():
    with pytest.raises(PlanError, match="nothing to run"):
        baselines(nx.DiGraph(), [], Resources({"big": 1}, 1.0, 1.0))
