from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cospipe.ir.analytic_latency import AnalyticLatencyModel
from cospipe.ir.core_scaling import time_on_cores
from cospipe.ir.cross_validation import held_out_predictions
from cospipe.ir.errors import UsageError
from cospipe.ir.forest import fit_forest
from cospipe.ir.latency import LatencySource
from cospipe.ir.latency_models import latency_model
from cospipe.ir.layer import LayerDescriptor, LayerKind
from cospipe.ir.layer_costs import PRODUCT, Machine, cost_terms, fit_costs
from cospipe.ir.layer_features import layer_features
from cospipe.ir.pipe_it import fit_pipe_it
from cospipe.ir.plan import CoreConfiguration
from cospipe.ir.profile import MeasuredLayer
from cospipe.ir.regression_file import read_regression, write_regression
from cospipe.ir.regression_latency import fit_regression
from cospipe.ir.soc import load_soc

SOC = load_soc("rk3399")
ONE, TWO = CoreConfiguration("big", 1), CoreConfiguration("big", 2)
LITTLE = CoreConfiguration("little", 4)


def conv(side, channels, columns, kernel=1, stride=1):
    inner = kernel * kernel * channels
    rows = side * side
    return LayerDescriptor(
        kind=LayerKind.CONV if kernel > 1 else LayerKind.POINTWISE_CONV,
        gemm_n=rows,
        gemm_k=inner,
        gemm_m=columns,
        macs=rows * inner * columns,
        input_bytes=4 * channels * (side * stride) ** 2,
        weight_bytes=4 * inner * columns,
        output_bytes=4 * rows * columns,
        stride=stride,
        kernel=(kernel, kernel),
        output_size=(side, side),
    )


def true_time_us(layer, cores=1):
    """A machine of its own: 10 GFLOP/s a core, 36/144 of the products of large 3x3 convolutions, 20 us to start."""
    gain = 4 if layer.kernel == (3, 3) and layer.stride == 1 and layer.gemm_k >= 9 * 16 else 1
    return 2 * layer.macs / gain / (10e3 * cores) + 20


def network(name, sides, configuration, core_type, cores):
    layers = [
        conv(side, channels, columns, kernel, stride)
        for side in sides
        for channels, columns in ((16, 32), (32, 48), (64, 64), (128, 96), (96, 256))
        for kernel, stride in ((1, 1), (3, 1), (3, 2))
    ]
    return [MeasuredLayer(name, layer, core_type, configuration, true_time_us(layer, cores)) for layer in layers]


def rows_on(configuration, core_type, cores):
    return [
        row
        for name, sides in (("first", (56, 28)), ("second", (52, 14)), ("third", (40, 20)))
        for row in network(name, sides, configuration, core_type, cores)
    ]


@cache
def fitted():
    return fit_regression([*rows_on(ONE, "cortex-a72", 1), *rows_on(LITTLE, "cortex-a53", 4)], SOC, "made up")


def test_layers_of_an_unseen_network_are_predicted_and_winograd_is_found_from_times():
    model = fitted()
    for row in network("new", (32, 24), ONE, "cortex-a72", 1):
        assert model.predict_us(row.layer, ONE) == pytest.approx(row.time_us, rel=0.1)
    assert {side for fit in model.fits.values() for side in fit.rule} == {3}
    assert all(error < 0.1 for error in model.errors.values())


def test_prediction_says_where_it_comes_from():
    prediction = fitted().predict(conv(30, 64, 64), ONE)
    assert prediction.source is LatencySource.REGRESSION
    assert prediction.held_out_error == fitted().errors["cortex-a72", 1]


def test_same_rows_give_the_same_model_and_a_file_gives_it_back(tmp_path):
    write_regression(fitted(), tmp_path / "model.json")
    again = read_regression(tmp_path / "model.json", SOC)
    layer = conv(31, 50, 70, kernel=3)
    assert again.predict(layer, LITTLE) == fitted().predict(layer, LITTLE)
    assert again.kernel_library == "made up"
    assert again.errors == fitted().errors


def test_cores_that_were_not_measured_follow_the_chips_parallel_efficiency():
    layer = conv(56, 64, 64)
    speedup = fitted().predict_us(layer, ONE) / fitted().predict_us(layer, TWO)
    assert speedup == pytest.approx(2 * SOC.cluster("big").parallel_efficiency[1])


def test_times_between_measured_numbers_of_cores():
    # 30 us that all share and 5 us that they do not
    assert time_on_cores({1: 35.0, 3: 15.0}, 2) == pytest.approx(20)
    assert time_on_cores({1: 35.0, 3: 15.0}, 6) == pytest.approx(10)
    assert time_on_cores({1: 10.0, 2: 12.0}, 4) == 12  # slower with more: nothing is shared


@given(st.floats(1, 1e6), st.floats(1, 1e6), st.integers(1, 16))
def test_time_on_cores_is_never_negative(few_us, many_us, cores):
    assert time_on_cores({2: few_us, 4: many_us}, cores) >= 0


def test_kinds_that_were_not_measured_take_the_analytic_model_scaled():
    layer = LayerDescriptor(LayerKind.SOFTMAX, 100_000, 0, 0, 0, 400_000, 0, 400_000)
    prediction = fitted().predict(layer, ONE)
    analytic = AnalyticLatencyModel(SOC)
    ratios = [row.time_us / analytic.predict_us(row.layer, ONE) for row in rows_on(ONE, "cortex-a72", 1)]
    assert prediction.source is LatencySource.ANALYTIC
    assert prediction.held_out_error is None
    assert prediction.time_us == pytest.approx(np.median(ratios) * analytic.predict_us(layer, ONE))


def test_views_and_fused_layers_cost_what_the_analytic_model_says():
    view = LayerDescriptor(LayerKind.RESHAPE, 10, 0, 0, 0, 0, 0, 0)
    fused = LayerDescriptor(LayerKind.ELEMENTWISE, 10_000, 0, 0, 0, 40_000, 0, 40_000, fused_into="conv2d")
    assert fitted().predict_us(view, ONE) == 0
    assert fitted().predict_us(fused, ONE) == AnalyticLatencyModel(SOC).predict_us(fused, ONE)


@settings(max_examples=25, deadline=None)
@given(st.integers(60, 400), st.integers(256, 2000), st.integers(256, 2000))
def test_far_from_every_measured_layer_the_costs_still_hold(side, channels, columns):
    layer = conv(side, channels, columns)
    assert 0.5 < fitted().predict_us(layer, ONE) / true_time_us(layer) < 2


@settings(max_examples=3, deadline=None)
@given(st.floats(0.1, 50))
def test_a_machine_that_many_times_slower_takes_that_many_times_longer(factor):
    rows = rows_on(ONE, "cortex-a72", 1)
    slower = fit_regression([replace(row, time_us=row.time_us * factor) for row in rows], SOC, check=False)
    layer = conv(33, 40, 72, kernel=3)
    assert slower.predict_us(layer, ONE) == pytest.approx(factor * fitted().predict_us(layer, ONE), rel=0.05)


def test_held_out_network_is_not_in_its_own_fit():
    seen = []

    def fit(rows):
        seen.append({row.network for row in rows})
        return fit_regression(rows, SOC, check=False)

    held_out = held_out_predictions(rows_on(ONE, "cortex-a72", 1), fit)
    assert seen == [{"second", "third"}, {"first", "third"}, {"first", "second"}]
    assert len(held_out) == len(rows_on(ONE, "cortex-a72", 1))


def test_a_single_network_is_held_out_in_parts():
    groups = {one.group for one in held_out_predictions(network("one", (56, 28), ONE, "cortex-a72", 1), fit_pipe_it)}
    assert len(groups) == 10


def test_no_cost_is_negative():
    layers = [row.layer for row in rows_on(ONE, "cortex-a72", 1)]
    noise = np.exp(np.random.default_rng(0).normal(0, 0.5, len(layers)))
    times_us = np.array([true_time_us(layer) for layer in layers]) * noise
    assert (fit_costs(cost_terms(PRODUCT, layer_features(layers), Machine()), times_us) >= 0).all()


def test_forest_agrees_with_scikit_learn():
    from sklearn.ensemble import ExtraTreesRegressor

    random = np.random.default_rng(0)
    features, values = random.normal(size=(80, 4)), random.normal(size=80)
    reference = ExtraTreesRegressor(200, min_samples_leaf=2, random_state=0).fit(features, values)
    others = random.normal(size=(30, 4))
    assert fit_forest(features, values).predict(others) == pytest.approx(reference.predict(others))


def pipe_it_rows(threads):
    # t = 3 + 2 N + 5e-6 N K M on one core, shared by row blocks of 8, and 7 us for having threads
    rows = []
    for cores in threads:
        for side, channels, columns in ((8, 3, 5), (10, 7, 11), (12, 30, 17), (7, 60, 5), (15, 9, 90), (20, 31, 70)):
            for kernel in (1, 3, 5):
                layer = replace(conv(side, channels, columns, kernel), kind=LayerKind.CONV)
                blocks = -(-layer.gemm_n // 8)
                one_us = 3 + 2 * layer.gemm_n + 5e-6 * layer.macs
                share = -(-blocks // cores) * 8 / layer.gemm_n if cores > 1 else 1
                time_us = one_us * share + (7 if cores > 1 else 0)
                rows.append(MeasuredLayer("net", layer, "cortex-a72", CoreConfiguration("big", cores), time_us))
    return rows


def test_pipe_its_form_finds_its_own_times():
    rows = pipe_it_rows((1, 2))
    model = fit_pipe_it(rows)
    for row in rows:
        assert model.predict_us(row.layer, row.configuration) == pytest.approx(row.time_us, rel=1e-3)
    assert model.overheads_us["cortex-a72", 2] == pytest.approx(7, abs=0.1)


@pytest.mark.parametrize("fit", [fit_pipe_it, lambda rows: fit_regression(rows, SOC)])
def test_times_that_cannot_be(fit):
    good = rows_on(ONE, "cortex-a72", 1)
    with pytest.raises(UsageError, match="no measured layer"):
        fit([])
    for wrong in (-1.0, float("nan"), float("inf")):
        with pytest.raises(UsageError, match=r"1 measured time\(s\) are negative or no number"):
            fit([replace(good[0], time_us=wrong), *good[1:]])


def test_a_core_type_nobody_measured(tmp_path):
    model = fit_regression(rows_on(ONE, "cortex-a72", 1), SOC)
    with pytest.raises(UsageError, match="No layer was measured on cortex-a53 cores, only on cortex-a72"):
        model.predict(conv(28, 16, 16), LITTLE)
    write_regression(model, tmp_path / "model.json")
    with pytest.raises(UsageError, match=r"little \(cortex-a53\)"):
        latency_model(SOC, "regression", tmp_path / "model.json")


def test_files_that_are_no_model_or_of_another_board(tmp_path):
    path = tmp_path / "model.json"
    write_regression(fitted(), path)
    assert latency_model(SOC, "regression", path).predict_us(conv(28, 16, 16), ONE) > 0
    with pytest.raises(UsageError, match="rk3399, not on hikey970"):
        latency_model(load_soc("hikey970"), "regression", path)
    with pytest.raises(UsageError, match="needs measured layers"):
        latency_model(SOC, "regression")
    path.write_text(path.read_text().replace('"time_us":', '"time_us":-'))
    with pytest.raises(UsageError, match=r"rows\.0\.time_us"):
        latency_model(SOC, "regression", path)
    path.write_text("{")
    with pytest.raises(UsageError, match="neither a profile nor a fitted latency model"):
        latency_model(SOC, "regression", path)
    with pytest.raises(UsageError, match="cannot be read"):
        latency_model(SOC, "regression", tmp_path / "missing.json")
