"""Kinds, work and limits of kernels against numpy and the graph's own descriptions, and the figures made of them."""

import json
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
import torch
import tvm
from core_limits import CoreLimits, array_bytes, array_sum, multiply_adds
from efficiency_summary import kernel_rows, kind_rows, matching_times_us, weighted_median
from hypothesis import given
from hypothesis import strategies as st
from kernel_efficiency import app, checked_threads
from kernel_kinds import work_of
from kernel_timing import Duration, KernelCall, Timing, time_kernels
from latency_fit import descriptor, fit, measured_host, table_text
from models import Network
from torch import nn
from typer.testing import CliRunner

from cospipe.backends.tvm.kernel_descriptions import KernelDescription
from cospipe.backends.tvm.target import core_target
from cospipe.backends.tvm.tiling import Core
from cospipe.ir.analytic_latency import AnalyticLatencyModel
from cospipe.ir.capture import capture
from cospipe.ir.describe import describe_graph
from cospipe.ir.errors import UsageError
from cospipe.ir.kernel_libraries import KernelEfficiency
from cospipe.ir.layer import LayerKind
from cospipe.ir.plan import CoreConfiguration
from cospipe.ir.soc import load_soc

HOST = load_soc("host")
CLUSTER = HOST.clusters[0]
LIMITS = CoreLimits(2, 200.0, {"L1": 400.0, "L2": 200.0, "memory": 20.0})
POINTWISE = {
    "batch": 1,
    "groups": 1,
    "input_channels": 64,
    "output_channels": 32,
    "input_block": 16,
    "output_block": 16,
    "rows": {"input": 10, "output": 10, "kernel": 1, "stride": 1, "padding": 0, "dilation": 1},
    "columns": {"input": 10, "output": 10, "kernel": 1, "stride": 1, "padding": 0, "dilation": 1},
    "tile_columns": 5,
    "tile_vectors": 2,
}


class Several(nn.Module):
    """A layer of each kind whose products are counted."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(16, 64, 3, stride=2, padding=1)
        self.pointwise = nn.Conv2d(64, 64, 1)
        self.winograd = nn.Conv2d(64, 64, 3, padding=1)
        self.depthwise = nn.Conv2d(64, 64, 3, padding=1, groups=64)
        self.transposed = nn.ConvTranspose2d(64, 64, 2, stride=2)
        self.rows = nn.Linear(64, 64)
        self.head = nn.Linear(64, 64)

    def forward(self, image, left, right):
        image = self.transposed(self.depthwise(self.winograd(self.pointwise(self.first(image)))))
        return self.head(torch.max_pool2d(image, 2).mean((2, 3))), self.rows(left), left @ right


def call(name, time_us, kind="convolution", options=POINTWISE, output_bytes=1000):
    return KernelCall(KernelDescription(name, kind, options), 3000, 2000, output_bytes, time_us)


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    torch.manual_seed(0)
    inputs = torch.randn(1, 16, 56, 56), torch.randn(2, 40, 64), torch.randn(2, 64, 24)
    network = Network(Several().eval().requires_grad_(False), inputs)
    timing = time_kernels(network, HOST, 1, Duration(3, 0.0), tmp_path_factory.mktemp("kernels"))
    assert 0 <= timing.interrupted <= 1
    return network, timing.calls


@pytest.mark.slow
def test_multiply_accumulates_are_those_of_the_graph(measured):
    network, calls = measured
    expected, found = Counter(), Counter()
    for layer in describe_graph(capture(network.module, network.inputs).graph).values():
        expected[layer.kind] += layer.macs
    for work in (work_of(made.kernel) for made in calls):
        found[work.layer_kind] += work.macs
    assert +found == +expected


@pytest.mark.slow
def test_every_kernel_has_a_time_and_a_known_kind(measured):
    _, calls = measured
    assert all(0 < made.time_us < 1e6 for made in calls)
    kinds = {work_of(made.kernel).kind for made in calls}
    assert {"pointwise convolution", "Winograd convolution", "depthwise convolution", "batched product"} <= kinds
    assert {"linear, few rows", "linear, many rows", "transposed convolution", "pooling"} <= kinds


@pytest.mark.slow
def test_bytes_of_weights_and_inputs_are_told_apart(measured):
    _, calls = measured
    (pointwise,) = [made for made in calls if work_of(made.kernel).kind == "pointwise convolution"]
    assert pointwise.input_bytes == pointwise.output_bytes == 4 * 64 * 28 * 28
    assert pointwise.weight_bytes == 4 * (64 * 64 + 64)


def test_kernel_of_an_unknown_kind_is_called_by_its_name():
    work = work_of(KernelDescription("k", "brand_new", {}))
    assert work == ("brand new", LayerKind.OTHER, 0, 0)


def test_taps_outside_the_image_are_not_done():
    window = {"input": 5, "output": 3, "kernel": 3, "stride": 2, "padding": 1, "dilation": 1}
    work = work_of(KernelDescription("k", "convolution", {**POINTWISE, "rows": window, "columns": window}))
    assert work.kind == "direct convolution"
    assert work.macs == 64 * 32 * 3**2 * 3**2
    assert work.done_macs == 64 * 32 * (2 + 3 + 2) ** 2  # the first and the last window lose a tap each


def test_winograd_does_fewer_products():
    sizes = {"input_rows": 12, "input_columns": 12, "output_rows": 12, "output_columns": 12, "top": 1, "left": 1}
    blocks = {"batch": 1, "input_blocks": 2, "output_blocks": 3, "input_block": 16, "output_block": 16}
    options = {**blocks, **sizes, "size": 6, "panel": 4, "tile_pixels": 4, "tile_vectors": 3}
    work = work_of(KernelDescription("k", "winograd", options))
    assert work.macs == 32 * 48 * 9 * 144
    assert work.done_macs == 32 * 48 * 64 * 4  # four tiles of 6 x 6 outputs, each from 8 x 8 products


def test_row_of_a_kernel():
    (row,) = kernel_rows("net", Timing([call("k", 10.0)], 0.25), LIMITS, [call("k", 16.0)])
    assert row["macs"] == 64 * 32 * 100
    assert row["gflops"] == pytest.approx(2 * 204_800 / 10e-6 / 1e9, rel=1e-3)
    assert row["peak_share"] == pytest.approx(40.96 / 200, abs=1e-3)
    assert row["gb_per_s"] == pytest.approx(0.6)
    assert row["efficiency"] == pytest.approx(16 / 20)
    assert row["interrupted"] == 0.25
    assert row["kind"] == "pointwise convolution"


def test_networks_that_were_compiled_differently_are_not_compared():
    assert matching_times_us([call("a", 1.0)], []) == [None]
    assert matching_times_us([call("a", 1.0), call("b", 2.0)], [call("a", 3.0), call("b", 4.0, output_bytes=4)]) == [
        3.0,
        None,
    ]


def test_kinds_are_summed_and_sorted_by_time():
    pooled = call("p", 100.0, kind="pooling", options={})
    timing = Timing([call("a", 10.0), call("b", 30.0), pooled], 0.0)
    rows = kernel_rows("net", timing, LIMITS, [call("a", 20.0)] * 3)
    pooling, pointwise = kind_rows(rows)
    assert (pooling["kind"], pooling["gflops"], pooling["peak_share"]) == ("pooling", None, None)
    assert pointwise["kernels"] == 2
    assert pointwise["time_ms"] == pytest.approx(0.04)
    assert pointwise["time_share"] == pytest.approx(40 / 140, abs=1e-3)
    assert pointwise["gflops"] == pytest.approx(2 * 2 * 204_800 / 40e-6 / 1e9, rel=1e-2)
    assert pointwise["efficiency"] == pytest.approx(20 / 60, abs=1e-3)  # equal weights: the lower of the two


@given(st.lists(st.tuples(st.integers(-9, 9), st.integers(1, 5)), min_size=1, max_size=8))
def test_weighted_median_is_the_median_of_repeated_values(pairs):
    repeated = sorted(value for value, weight in pairs for _ in range(weight))
    assert weighted_median(pairs) == repeated[(len(repeated) - 1) // 2]


def compiled(function):
    return tvm.compile(tvm.IRModule({"main": function}), target=core_target(CLUSTER, 1, HOST.architecture))["main"]


def test_chains_of_multiply_adds_compute_what_they_say():
    run = compiled(multiply_adds(Core("x86_64", 16, 16, cores=2), chains=3, turns=5))
    sums = tvm.runtime.tensor(np.zeros((2, 3, 4), np.float32))
    run(tvm.runtime.tensor(np.array([[0.5] * 4, [2.0] * 4], np.float32)), sums)
    expected = []
    for value in map(Fraction, range(3)):
        for _ in range(5):
            value = value / 2 + 2
        expected.append(float(value))
    np.testing.assert_allclose(sums.numpy(), np.broadcast_to(np.array(expected)[:, None], (2, 3, 4)))


def test_every_element_is_read_in_every_turn():
    run = compiled(array_sum(Core("x86_64", 16, 16, cores=2), steps=3, turns=7))
    data = np.random.default_rng(0).integers(0, 9, (2, 3, 8, 4)).astype(np.float32)
    sums = tvm.runtime.tensor(np.zeros((2, 8, 4), np.float32))
    run(tvm.runtime.tensor(data), sums)
    np.testing.assert_array_equal(sums.numpy(), 7 * data.sum(axis=1))


def test_arrays_fit_their_level_and_no_faster_one():
    cluster = CLUSTER.model_copy(update={"cores": 2, "l1d_kib": 32, "l2_kib": 512, "l2_shared": True, "l3_kib": 4096})
    sizes = array_bytes(cluster)
    assert sizes["L1"] == 16 << 10
    assert sizes["L2"] == 128 << 10
    assert (512 << 10) < 2 * sizes["L3"] <= (4096 << 10)
    assert "L3" not in array_bytes(cluster.model_copy(update={"l3_kib": 0}))


def test_fit_finds_the_efficiency_that_times_were_made_with():
    soc = measured_host(HOST, CoreLimits(1, 100.0, {"memory": 10.0}))
    assert soc.clusters[0].peak_gflops_per_core == pytest.approx(100.0)
    assert soc.clusters[0].memory_bandwidth_gb_per_s[0] == 10.0
    true = {LayerKind.POINTWISE_CONV: KernelEfficiency(0.37)}
    model = AnalyticLatencyModel(soc, efficiency=true)
    rows = []
    for macs in (10**6, 10**7, 10**8):
        row = {"layer_kind": "pointwise_conv", "macs": macs, "input_bytes": 400, "weight_bytes": 400}
        row["output_bytes"] = 400
        row["time_us"] = model.predict_us(descriptor(row), CoreConfiguration(soc.clusters[0].name, 1))
        rows.append(row)
    (fitted,) = fit(rows, soc, {LayerKind.POINTWISE_CONV: KernelEfficiency(0.9)})
    assert fitted["peak_fraction"] == pytest.approx(0.37)
    assert fitted["typical_error"] == 0
    assert table_text([fitted]) == "    LayerKind.POINTWISE_CONV: KernelEfficiency(0.37),"


def test_kernels_bound_by_memory_keep_their_efficiency():
    soc = measured_host(HOST, CoreLimits(1, 100.0, {"memory": 10.0}))
    row = {"layer_kind": "linear", "macs": 1000, "input_bytes": 4, "weight_bytes": 10**7, "output_bytes": 4}
    (fitted,) = fit([{**row, "time_us": 900.0}], soc, {LayerKind.LINEAR: KernelEfficiency(0.5)})
    assert fitted["peak_fraction"] is None
    assert table_text([fitted]) == "    LayerKind.LINEAR: KernelEfficiency(0.5),"


def test_too_many_threads_are_refused():
    result = CliRunner().invoke(app, ["--networks", "squeezenet1_1", "--threads", "4096"])
    assert result.exit_code == 2
    assert "4096 equal cores" in result.output


def test_fit_needs_one_thread():
    assert checked_threads([1, 1], HOST, needs_one=True) == [1]
    many = HOST.model_copy(update={"clusters": (CLUSTER.model_copy(update={"cores": 8}),)})
    assert checked_threads([4, 2, 4], many, needs_one=False) == [2, 4]
    with pytest.raises(UsageError, match="add 1 to --threads"):
        checked_threads([2], many, needs_one=True)


@pytest.mark.slow
def test_one_network_from_the_command_line(tmp_path):
    file = tmp_path / "kernels.json"
    arguments = ["--networks", "squeezenet1_1", "--threads", "1", "--runs", "2", "--seconds", "0", "--json", str(file)]
    result = CliRunner().invoke(app, [*arguments, "--fit"])
    assert result.exit_code == 0, result.output
    assert "LayerKind.POINTWISE_CONV: KernelEfficiency(" in result.output
    written = json.loads(file.read_text())
    assert written["environment"]["apache-tvm"]
    assert written["summary"]["threads_1_peak_gflops"] > 0
    assert sum(row["macs"] for row in written["rows"]) > 300e6
