"""Looking up measured times: of the right network on the right board, or a sentence that says what is missing."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from profile_examples import CONVOLUTION, FINGERPRINT, POOLING, kernel, network, on_cores, profile

from cospipe.ir.analytic_latency import AnalyticLatencyModel
from cospipe.ir.errors import UsageError
from cospipe.ir.latency import LatencySource
from cospipe.ir.latency_models import latency_model
from cospipe.ir.measured_latency import MeasuredLatencyModel
from cospipe.ir.plan import CoreConfiguration
from cospipe.ir.profile import write_profile
from cospipe.ir.soc import load_soc, parse_soc

BIG, LITTLE = CoreConfiguration("big", 1), CoreConfiguration("little", 1)
SOC = parse_soc(
    """
name = "two-clusters"
title = "Two clusters"
architecture = "aarch64"
hand_over_us = 20.0
hand_over_gb_per_s = 4.0
sources = ["made up"]
"""
    + "".join(
        f"""
[[clusters]]
name = "{name}"
core_type = "{core_type}"
cores = 1
cpu_ids = [{cpu}]
clock_mhz = [1800.0]
simd_bytes = 16
simd_registers = 32
flop_per_cycle = 8.0
l1d_kib = 32
l2_kib = 512
memory_bandwidth_gb_per_s = [4.0]
parallel_efficiency = [1.0]
"""
        for cpu, (name, core_type) in enumerate([("big", "cortex-a73"), ("little", "cortex-a53")])
    ),
    "test",
)
WHOLE = network(
    {
        "big:1": on_cores(kernel("conv", 30.0, others=("relu",)), kernel("pool", 10.0, POOLING), network_us=44.0),
        "little:1": on_cores(kernel("conv", 90.0, others=("relu",)), kernel("pool", 10.0, POOLING)),
    }
)


@pytest.fixture
def model_of(tmp_path):
    """Return a function that writes a profile and makes the factory read it."""

    def make(written, source="measured", fingerprint=FINGERPRINT, soc=SOC):
        write_profile(written, tmp_path / "board.json")
        return latency_model(soc, source, tmp_path / "board.json", fingerprint)

    return make


def test_times_add_up_to_the_network(model_of):
    model = model_of(profile(WHOLE))
    times_us = [model.predict_us(layer, BIG, node) for node, layer in (("conv", CONVOLUTION), ("pool", POOLING))]
    assert times_us == pytest.approx([33.0, 11.0])
    assert model.predict_us(CONVOLUTION, LITTLE, "conv") == 90.0


@given(times=st.lists(st.floats(0.1, 1e4), min_size=1, max_size=5), whole=st.floats(0.1, 1e5))
def test_the_sum_is_the_network_whatever_was_measured(times, whole):
    kernels = [kernel(f"n{place}", time_us) for place, time_us in enumerate(times)]
    measured = network({"big:1": on_cores(*kernels, network_us=whole)})
    model = MeasuredLatencyModel(SOC, "ours", LatencySource.MEASURED, measured)
    total_us = sum(model.predict_us(CONVOLUTION, BIG, one.nodes[0]) for one in kernels)
    assert total_us == pytest.approx(whole)


def test_a_whole_that_was_disturbed_says_nothing():
    measured = network({"big:1": on_cores(kernel("conv", 30.0), network_us=500.0, network_runs=0)})
    model = MeasuredLatencyModel(SOC, "ours", LatencySource.MEASURED, measured)
    assert model.predict_us(CONVOLUTION, BIG, "conv") == 30.0


def test_nodes_in_the_kernel_of_another_cost_nothing(model_of):
    assert model_of(profile(WHOLE)).predict_us(POOLING, BIG, "relu") == 0.0


def test_kernels_with_the_same_head_are_added():
    measured = network({"big:1": on_cores(kernel("attention", 5.0), kernel("attention", 7.0))})
    model = MeasuredLatencyModel(SOC, "ours", LatencySource.MEASURED, measured)
    assert model.predict_us(CONVOLUTION, BIG, "attention") == 12.0


def test_predictions_say_where_they_come_from(model_of):
    prediction = model_of(profile(WHOLE)).predict(CONVOLUTION, BIG, "conv")
    assert prediction.source is LatencySource.MEASURED
    assert prediction.held_out_error is None
    assert prediction.clock_bound == AnalyticLatencyModel(SOC).predict(CONVOLUTION, BIG).clock_bound
    emulated = model_of(profile(WHOLE, source="emulated"), source="emulated").predict(CONVOLUTION, BIG, "conv")
    assert emulated.source is LatencySource.EMULATED


def test_a_node_must_be_named(model_of):
    with pytest.raises(UsageError, match="name the node"):
        model_of(profile(WHOLE)).predict(CONVOLUTION, BIG)


def test_cores_the_chip_does_not_have(model_of):
    with pytest.raises(UsageError, match="big: 3 cores asked for"):
        model_of(profile(WHOLE)).predict(CONVOLUTION, CoreConfiguration("big", 3), "conv")


def test_a_profile_of_another_model(model_of):
    with pytest.raises(UsageError, match=r"does not hold this network.*nets:one.*cospipe profile MODEL --soc two-clus"):
        model_of(profile(WHOLE), fingerprint="12" * 32)


def test_a_profile_of_another_board(model_of):
    with pytest.raises(UsageError) as raised:
        model_of(profile(WHOLE, soc="rk3588", core_types={"big": "cortex-a76", "little": "cortex-a53"}))
    assert "it is of the board 'rk3588', not 'two-clusters'" in str(raised.value)
    assert "its cores are big cortex-a76, little cortex-a53, those of the SoC big cortex-a73" in str(raised.value)


def test_emulated_times_are_not_taken_for_measured_ones(model_of):
    with pytest.raises(UsageError, match="its times are emulated, not measured"):
        model_of(profile(WHOLE, source="emulated"))


def test_a_profile_of_another_host(model_of):
    host = load_soc("host")
    core_types = {cluster.name: cluster.core_type for cluster in host.clusters}
    with pytest.raises(UsageError, match="it is of another machine: somebody else's"):
        model_of(profile(soc="host", core_types=core_types, machine="somebody else's"), soc=host)


def test_missing_core_types_are_named_with_the_command(model_of):
    only_big = network({"big:1": WHOLE.configurations["big:1"]})
    with pytest.raises(UsageError) as raised:
        model_of(profile(only_big))
    assert "nets:one was not measured on little:1" in str(raised.value)
    assert "cospipe profile nets:one --soc two-clusters --cores little:1" in str(raised.value)


def test_missing_core_counts_are_named(model_of):
    big, little = SOC.clusters
    more = big.model_copy(
        update={
            "cores": 3,
            "cpu_ids": (0, 2, 3),
            "memory_bandwidth_gb_per_s": (4.0,) * 3,
            "parallel_efficiency": (1.0,) * 3,
        }
    )
    written = profile(network({**WHOLE.configurations, "big:3": WHOLE.configurations["big:1"]}))
    with pytest.raises(UsageError, match=r"was not measured on big:2\. .*--cores big:2 -o"):
        model_of(written, soc=SOC.model_copy(update={"clusters": (more, little)}))


@pytest.mark.parametrize("source", ["measured", "emulated"])
def test_no_profile_at_all(source):
    with pytest.raises(UsageError, match=rf"The latency source '{source}' needs a profile"):
        latency_model(SOC, source)


def test_a_profile_that_is_not_there(tmp_path):
    with pytest.raises(UsageError, match="cannot be read"):
        latency_model(SOC, "measured", tmp_path / "none.json", FINGERPRINT)
