"""Exploring a whole chip: what is chosen, what is shown beside it, the front, the reasons."""

from itertools import pairwise

import pytest
import torch
from torch import nn

from cospipe.ir.capture import capture
from cospipe.ir.errors import PlanError, UsageError
from cospipe.ir.exploration import Limits
from cospipe.ir.plan_support import cannot_run
from cospipe.ir.soc import load_soc
from cospipe.passes.annotate_latency import AnnotateLatency
from cospipe.passes.annotate_layers import AnnotateLayers
from cospipe.passes.explore import Question, exceeded, explore
from cospipe.passes.pipeline import PassManager

CHIP = load_soc("rk3399")


@pytest.fixture(scope="module")
def graph():
    torch.manual_seed(0)
    layers = [nn.Sequential(nn.Conv2d(32, 32, 3, padding=1), nn.ReLU()) for _ in range(6)]
    model = nn.Sequential(nn.Conv2d(3, 32, 3, padding=1), *layers, nn.Flatten(), nn.Linear(32 * 24 * 24, 10)).eval()
    passes = PassManager([AnnotateLayers(), AnnotateLatency(soc=CHIP.name)])
    return passes(capture(model, (torch.randn(1, 3, 24, 24),))).graph_module.graph


@pytest.fixture(scope="module")
def found(graph):
    return explore(graph, Question(CHIP), "SmallNetwork")


def test_what_is_chosen_can_run_and_nothing_that_can_is_quicker(found):
    assert not cannot_run(found.chosen)
    for option in (*found.kinds, *found.baselines, *found.front):
        if not option.cannot_run:
            assert found.chosen.period_us <= option.plan.period_us * (1 + 1e-9)


def test_every_kind_is_there_with_the_best_plan_of_it(found):
    plans = {option.name: option.plan for option in found.kinds}
    assert plans["one stage"].kind == "one stage"
    assert all(len(stage.replicas) == 1 for stage in plans["pipeline"].stages)
    assert len(plans["copies of the network"].stages) == 1
    assert plans["any mixture that can run"].period_us == found.chosen.period_us
    assert plans["any mixture at all"].period_us <= found.chosen.period_us
    assert {"kernels over clusters, equal parts", "pipeline with GPU and NPU"} <= plans.keys()


def test_what_cannot_run_says_why():
    layers = [nn.Conv2d(64, 64, 3, padding=1) for _ in range(3)]
    captured = capture(nn.Sequential(*layers).eval(), (torch.randn(1, 64, 56, 56),))
    passes = PassManager([AnnotateLayers(), AnnotateLatency(soc="hikey970")])
    found = explore(passes(captured).graph_module.graph, Question(load_soc("hikey970")), "Wide")
    assert all(list(option.cannot_run) == cannot_run(option.plan) for option in found.kinds)
    unrunnable = next(option for option in found.kinds if option.name == "pipeline with GPU and NPU")
    assert any("not for the NPU" in reason for reason in unrunnable.cannot_run)
    assert unrunnable.plan.period_us < found.chosen.period_us
    assert any("cannot run yet" in reason for reason in found.reasons)


def test_baselines_are_priced_as_our_plans_are(found):
    plans = {option.name: option.plan for option in found.baselines}
    assert {"Pipe-it", "fastest cluster", "two-way, clusters", "all cores for each kernel"} <= plans.keys()
    assert plans["two-way, clusters"].contention == pytest.approx(1 + CHIP.contention)
    assert plans["fastest cluster"].contention == 1


def test_no_plan_of_the_front_beats_another_in_everything(found):
    values = [(o.plan.period_us, o.plan.latency_us, o.plan.energy_mj) for o in found.front]
    assert len(values) == len(set(values)) > 3
    assert all(before[0] <= after[0] for before, after in pairwise(values))
    for one in values:
        assert not any(all(x <= y for x, y in zip(other, one, strict=True)) for other in values if other != one)
    assert not any(option.cannot_run for option in found.front)


def test_reasons_are_sentences_with_the_bound_and_the_limit(found):
    text = "\n".join(found.reasons)
    assert all(reason.endswith(".") for reason in found.reasons)
    assert "states" in text
    assert "It is limited so: " in text
    assert "results could not come more often than every" in text


def test_an_exploration_survives_json(found):
    assert type(found).model_validate_json(found.model_dump_json()) == found


def test_energy_takes_lower_clocks_into_account(graph, found):
    thrifty = explore(graph, Question(CHIP, objective="energy"), "SmallNetwork").chosen
    assert thrifty.energy_mj < min(option.plan.energy_mj for option in found.kinds if not option.cannot_run)
    assert any(thrifty.clock_mhz[name] < CHIP.cluster(name).max_clock_mhz for name in thrifty.clock_mhz)


@pytest.mark.parametrize("objective", ["throughput", "latency"])
def test_a_power_limit_is_kept_by_lower_clocks_or_fewer_cores(graph, found, objective):
    limit = Limits(power_mw=4500)
    plan = explore(graph, Question(CHIP, objective, limit), "SmallNetwork").chosen
    assert plan.power_mw <= 4500 < found.chosen.power_mw
    assert not list(exceeded(plan, limit))


def test_plans_that_break_a_limit_are_shown_and_say_which(graph, found):
    limits = Limits(latency_us=found.chosen.latency_us * 0.5)
    limited = explore(graph, Question(CHIP, limits=limits), "SmallNetwork")
    assert limited.chosen.latency_us <= limits.latency_us
    assert any("latency" in text for option in (*limited.kinds, *limited.baselines) for text in option.exceeds)


def test_limits_nothing_can_meet(graph):
    with pytest.raises(PlanError, match="power: 1 W wanted, no plan has less than 3"):
        explore(graph, Question(CHIP, limits=Limits(power_mw=1000)), "SmallNetwork")


def test_cores_that_are_not_there(graph):
    with pytest.raises(UsageError, match="no cluster 'huge'"):
        explore(graph, Question(CHIP, cores="huge:1"), "SmallNetwork")
