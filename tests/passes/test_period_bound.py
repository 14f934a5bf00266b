"""No plan is below the bound, and it is the linear program's."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from scipy.optimize import linprog
from test_search import model_of, problems

from cospipe.passes.cut_graph import Resources
from cospipe.passes.period_bound import period_bound_us
from cospipe.passes.search import search_plan


@given(problem=problems(most_units=4))
@settings(max_examples=60, deadline=None)
def test_no_plan_is_quicker_than_the_bound(problem):
    model, order, resources = problem
    without = replace(resources, accelerators={}, power_mw={}, transfer_us={})
    assert search_plan(model, order, without).period_us >= period_bound_us(model, order, without) - 2e-5


@pytest.mark.parametrize("cores", [{"big": 2, "little": 3}, {"prime": 1, "big": 2, "little": 3}])
def test_agrees_with_linear_programming(cores):
    resources = Resources(cores, 0.0, 1.0)
    random = np.random.default_rng(0)
    model, order = model_of(random.uniform(1, 9, size=(6, len(resources.configurations()))).tolist(), resources)
    work = np.array(
        [
            [min(c.cores * t for c, t in model.nodes[u]["time_us"].items() if c.cluster == name) for name in cores]
            for u in order
        ]
    )
    units, clusters = work.shape
    # the period and the share of each unit on each cluster
    cost = np.array([1.0, *np.zeros(work.size)])
    busy = np.hstack(
        [
            -np.array([[count] for count in cores.values()]),
            np.concatenate([np.diag(work[u]) for u in range(units)], axis=1),
        ]
    )
    whole = np.hstack([np.zeros((units, 1)), np.kron(np.eye(units), np.ones(clusters))])
    best = linprog(cost, A_ub=busy, b_ub=np.zeros(clusters), A_eq=whole, b_eq=np.ones(units)).fun
    assert period_bound_us(model, order, resources) == pytest.approx(best, rel=1e-4)


def test_one_cluster_is_its_work_shared_out():
    resources = Resources({"big": 2}, 0.0, 1.0)
    model, order = model_of([(3.0, 2.0), (5.0, 2.0)], resources)
    assert period_bound_us(model, order, resources) == pytest.approx((3 + 4) / 2)
