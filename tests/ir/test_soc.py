from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

from cospipe.ir.errors import SocError, UsageError
from cospipe.ir.plan import CoreConfiguration
from cospipe.ir.soc import Soc, load_soc, parse_soc, soc_names

BOARDS = [name for name in soc_names() if name != "host"]

# Cluster, core type and Linux's numbering, fastest cores first: written down here from the kernel's device trees.
CLUSTERS = {
    "hikey970": [("big", "cortex-a73", (4, 5, 6, 7)), ("little", "cortex-a53", (0, 1, 2, 3))],
    "odroid-n2": [("big", "cortex-a73", (2, 3, 4, 5)), ("little", "cortex-a53", (0, 1))],
    "odroid-xu4": [("big", "cortex-a15", (4, 5, 6, 7)), ("little", "cortex-a7", (0, 1, 2, 3))],
    "raspberry-pi-4": [("big", "cortex-a72", (0, 1, 2, 3))],
    "raspberry-pi-5": [("big", "cortex-a76", (0, 1, 2, 3))],
    "rk3399": [("big", "cortex-a72", (4, 5)), ("little", "cortex-a53", (0, 1, 2, 3))],
    "rk3588": [("big", "cortex-a76", (4, 5, 6, 7)), ("little", "cortex-a55", (0, 1, 2, 3))],
    "sd845": [("big", "cortex-a75", (4, 5, 6, 7)), ("little", "cortex-a55", (0, 1, 2, 3))],
    "sd855": [
        ("prime", "cortex-a76", (7,)),
        ("big", "cortex-a76", (4, 5, 6)),
        ("little", "cortex-a55", (0, 1, 2, 3)),
    ],
    "vim3": [("big", "cortex-a73", (2, 3, 4, 5)), ("little", "cortex-a53", (0, 1))],
}

MINIMAL = """
name = "mini"
title = "A board"
architecture = "aarch64"
hand_over_us = 30
hand_over_gb_per_s = 2.0
contention = 0.1
idle_power_mw = 2000
sources = ["somebody"]
estimated = ["clusters.big.parallel_efficiency"]

[[clusters]]
name = "big"
core_type = "cortex-a72"
cores = 2
cpu_ids = [2, 3]
clock_mhz = [600, 1800]
simd_bytes = 16
simd_registers = 32
flop_per_cycle = 8.0
l1d_kib = 32
l2_kib = 1024
memory_bandwidth_gb_per_s = [3.0, 4.0]
parallel_efficiency = [1.0, 0.8]
core_power_mw = [300, 1500]

[[clusters]]
name = "little"
core_type = "cortex-a53"
cores = 2
cpu_ids = [0, 1]
clock_mhz = [1400]
simd_bytes = 16
simd_registers = 32
flop_per_cycle = 7.6
l1d_kib = 32
l2_kib = 512
memory_bandwidth_gb_per_s = [1.5, 2.0]
parallel_efficiency = [1.0, 0.9]

[[accelerators]]
name = "Mali-X"
kind = "gpu"
gflops = 20
memory_bandwidth_gb_per_s = 5
launch_us = 100
power_mw = 2500
host_cluster = "little"

[[accelerators]]
name = "Some NPU"
kind = "npu"
"""


def changed(*changes: tuple[str, str]) -> str:
    """Return the minimal description with pieces replaced; every piece must be there."""
    text = MINIMAL
    for old, new in changes:
        assert old in text
        text = text.replace(old, new, 1)
    return text


def mistakes(text: str) -> list[str]:
    with pytest.raises(SocError) as error:
        parse_soc(text, "mini.toml")
    first, *rest = str(error.value).split("\n  - ")
    assert first.startswith("mini.toml has")
    return rest


def test_all_boards_are_there_and_host_comes_last():
    assert soc_names() == (*sorted(CLUSTERS), "host")


@pytest.mark.parametrize("name", BOARDS)
def test_board(name):
    soc = load_soc(name)
    assert soc.name == name
    assert [(c.name, c.core_type, c.cpu_ids) for c in soc.clusters] == CLUSTERS[name]
    assert soc.architecture == ("armv7" if name == "odroid-xu4" else "aarch64")


@pytest.mark.parametrize("name", BOARDS)
def test_more_cores_never_slow_a_layer_down(name):
    for cluster in load_soc(name).clusters:
        speeds = [n * efficiency for n, efficiency in enumerate(cluster.parallel_efficiency, start=1)]
        assert cluster.parallel_efficiency[0] == 1.0
        assert all(slower < faster for slower, faster in pairwise(speeds))
        assert all(low <= high for low, high in pairwise(cluster.memory_bandwidth_gb_per_s))
        assert cluster.memory_bandwidth_gb_per_s[-1] <= cluster.cores * cluster.memory_bandwidth_gb_per_s[0]


@pytest.mark.parametrize("name", BOARDS)
def test_fastest_cluster_comes_first(name):
    speeds = [cluster.peak_gflops_per_core * cluster.kernel_efficiency for cluster in load_soc(name).clusters]
    assert speeds == sorted(speeds, reverse=True)


@pytest.mark.parametrize("name", BOARDS)
def test_peak_is_possible(name):
    # At most two multiply-adds a cycle on full vectors.
    for cluster in load_soc(name).clusters:
        assert cluster.flop_per_cycle <= 2 * 2 * cluster.simd_bytes / 4
        assert cluster.simd_registers == (16 if name == "odroid-xu4" else 32)


def test_llvm_knows_every_core_and_its_features():
    from tvm.target import Target, codegen

    triples = {"aarch64": "aarch64-linux-gnu", "armv7": "armv7l-linux-gnueabihf"}
    for soc in map(load_soc, BOARDS):
        triple = triples[soc.architecture]
        known = set(map(str, codegen.llvm_get_cpu_archlist(Target({"kind": "llvm", "mtriple": triple}))))
        for cluster in soc.clusters:
            assert cluster.core_type in known
            target = Target({"kind": "llvm", "mtriple": triple, "mcpu": cluster.core_type})
            real = {f"+{feature}" for feature in codegen.llvm_get_cpu_features(target)}
            assert set(cluster.features) <= real
            assert ("+dotprod" in cluster.features) == ("+dotprod" in real)


def test_clock_levels_of_rk3399_are_the_measured_ones():
    big, little = load_soc("rk3399").clusters
    assert little.clock_mhz == (408, 600, 816, 1008, 1200, 1416)
    assert big.clock_mhz == (*little.clock_mhz, 1608, 1800)


def test_predicted_ratio_of_clusters_is_near_the_measured_one():
    # Median over five networks of images/s of big by LITTLE, tables I of arXiv 1908.11450.
    for name, measured in (("odroid-xu4", 3.8), ("hikey970", 2.4)):
        big, little = (
            c.peak_gflops_per_core * c.kernel_efficiency * c.cores * c.parallel_efficiency[-1]
            for c in load_soc(name).clusters
        )
        assert big / little == pytest.approx(measured, rel=0.2)


def test_unknown_name_gives_the_nearest():
    with pytest.raises(UsageError, match="Did you mean hikey970"):
        load_soc("hikey-970")
    with pytest.raises(UsageError, match=r"Known: .*rk3588"):
        load_soc("zzz")


def test_file_is_read(tmp_path: Path):
    file = tmp_path / "mini.toml"
    file.write_text(MINIMAL)
    soc = load_soc(file)
    assert soc == load_soc(str(file))
    assert soc.core_count == 4
    assert [str(c) for c in soc.configurations()] == ["big:1", "big:2", "little:1", "little:2"]
    assert soc.cluster("big").peak_gflops_per_core == pytest.approx(14.4)


def test_missing_file_is_named():
    with pytest.raises(UsageError, match=r"no SoC description 'nowhere/board\.toml'"):
        load_soc("nowhere/board.toml")


def test_file_that_is_no_text_is_named(tmp_path: Path):
    file = tmp_path / "binary.toml"
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SocError, match=r"binary\.toml.* cannot be read"):
        load_soc(file)


def test_syntax_error_is_placed():
    with pytest.raises(SocError, match=r"mini\.toml is not valid TOML: .*line 3"):
        parse_soc('name = "mini"\ntitle = "x"\narchitecture = aarch64\n', "mini.toml")


def test_two_mistakes_are_both_told_with_their_keys():
    found = mistakes(changed(("l2_kib = 512", "l2_kb = 512"), ("hand_over_us = 30", "hand_over_us = -1")))
    assert len(found) == 3  # the misspelt key is also missing
    assert any(line.startswith("hand_over_us: ") for line in found)
    assert any(line.startswith("clusters.little.l2_kib: ") and "required" in line for line in found)
    assert any(line.startswith("clusters.little.l2_kb: ") for line in found)


def test_mistakes_of_value_and_of_length_are_told_together():
    found = mistakes(
        changed(
            ("cores = 2\ncpu_ids = [2, 3]", "cores = 4\ncpu_ids = [2, 3]"), ("clock_mhz = [1400]", "clock_mhz = []")
        )
    )
    assert "clusters.big.cpu_ids: 2 entries, expected 4 (one a core)" in found
    assert "clusters.big.memory_bandwidth_gb_per_s: 2 entries, expected 4 (one a core)" in found
    assert "clusters.big.parallel_efficiency: 2 entries, expected 4 (one a core)" in found
    assert any(line.startswith("clusters.little.clock_mhz: ") for line in found)


@pytest.mark.parametrize(
    ("old", "new", "mistake"),
    [
        ("cpu_ids = [2, 3]", "cpu_ids = [2, 2]", "clusters.big.cpu_ids: names cpu 2 twice"),
        ("cpu_ids = [2, 3]", "cpu_ids = [1, 3]", "clusters: cpu 1 is in two clusters"),
        ('name = "little"', 'name = "big"', "clusters: two clusters are called 'big'"),
        ("[600, 1800]", "[1800, 600]", "clusters.big.clock_mhz: levels must rise"),
        ("[600, 1800]", "[1800, 1800]", "clusters.big.clock_mhz: levels must rise"),
        ('"clusters.big.parallel', '"clusters.gpu.parallel', "estimated: no such key in this file: 'clusters.gpu."),
        ('"clusters.big.parallel_efficiency"', '"l2_kib"', "estimated: no such key in this file: 'l2_kib'"),
        ("[1.0, 0.8]", "[1.0, 1.8]", "clusters.big.parallel_efficiency.1: Input should be less than or equal to 1"),
        (
            "flop_per_cycle = 8.0",
            "flop_per_cycle = inf",
            "clusters.big.flop_per_cycle: Input should be a finite number",
        ),
        (
            "flop_per_cycle = 8.0",
            "flop_per_cycle = nan",
            "clusters.big.flop_per_cycle: Input should be a finite number",
        ),
        ('"aarch64"', '"riscv64"', "architecture: Input should be 'aarch64', 'armv7' or 'x86_64'"),
        ('["somebody"]', "[]", "sources: Tuple should have at least 1 item"),
        ("contention = 0.1", "contention = -0.1", "contention: Input should be greater than or equal to 0"),
        ("contention = 0.1", "contention = 15", "contention: Input should be less than or equal to 1"),
        ("contention = 0.1", "contention = nan", "contention: Input should be"),
        ("contention = 0.1", "spread_cost = -1", "spread_cost: Input should be greater than or equal to 0"),
        ("idle_power_mw = 2000", "idle_power_mw = 0", "idle_power_mw: Input should be greater than 0"),
        ("idle_power_mw = 2000", "idle_power_w = 2", "idle_power_w: Extra inputs are not permitted"),
        ("[300, 1500]", "[1500]", "clusters.big.core_power_mw: 1 entries, expected 2 (one a clock level)"),
        ("[300, 1500]", "[300, -1500]", "clusters.big.core_power_mw.1: Input should be greater than 0"),
        ("gflops = 20", "gflops = 0", "accelerators.gpu.gflops: Input should be greater than 0"),
        ("gflops = 20", "gflop = 20", "accelerators.gpu.gflop: Extra inputs are not permitted"),
        ("launch_us = 100", "launch_us = inf", "accelerators.gpu.launch_us: Input should be a finite number"),
        ("launch_us = 100", "launch_us = -1", "accelerators.gpu.launch_us: Input should be greater than or equal to 0"),
        ("power_mw = 2500", "power_mw = -1", "accelerators.gpu.power_mw: Input should be greater than 0"),
        ("memory_bandwidth_gb_per_s = 5\n", "", "accelerators.gpu: gflops needs memory_bandwidth_gb_per_s beside it"),
        ('kind = "npu"', 'kind = "dsp"', "accelerators.dsp.kind: Input should be 'gpu' or 'npu'"),
        ('kind = "npu"', 'kind = "gpu"', "accelerators: there are two of kind 'gpu', which is what plans call them by"),
        ('host_cluster = "little"', 'host_cluster = "tiny"', "accelerators: host_cluster 'tiny' is no cluster"),
        ('name = "little"\n', 'name = "npu"\n', "accelerators: a cluster is called 'npu' too"),
        (
            '"clusters.big.parallel',
            '"accelerators.dsp.power',
            "estimated: no such key in this file: 'accelerators",
        ),
    ],
)
def test_mistake_is_told(old: str, new: str, mistake: str):
    (found,) = mistakes(changed((old, new)))
    assert found.startswith(mistake)


def test_clusters_that_are_no_tables_or_missing_are_told():
    head = MINIMAL.partition("[[clusters]]")[0].replace('"clusters.big.parallel_efficiency"', "")
    (found,) = mistakes(head + "clusters = [1]\n")
    assert found.startswith("clusters.0: ")
    assert mistakes(head + "clusters = []\n") == ["clusters: at least one is needed"]


def test_estimated_keys_may_be_of_the_board_or_of_a_cluster():
    more = '"hand_over_us", "accelerators.gpu.power_mw", "clusters.big.par'
    soc = parse_soc(changed(('"clusters.big.par', more)), "mini.toml")
    assert soc.estimated == ("hand_over_us", "accelerators.gpu.power_mw", "clusters.big.parallel_efficiency")


def test_only_accelerators_with_rates_can_be_planned_for(soc: Soc):
    assert soc.accelerator_configurations() == (CoreConfiguration("gpu", 1),)
    gpu = soc.accelerator("gpu")
    assert gpu is not None
    assert gpu.name == "Mali-X"
    assert soc.accelerator("npu") is None


@pytest.mark.parametrize("name", BOARDS)
def test_bundled_boards_draw_power_that_rises_with_the_clock(name: str):
    soc = load_soc(name)
    assert soc.idle_power_mw is not None
    for cluster in soc.clusters:
        assert len(cluster.core_power_mw) == len(cluster.clock_mhz)
        assert list(cluster.core_power_mw) == sorted(set(cluster.core_power_mw))


@pytest.mark.parametrize("name", [name for name in BOARDS if len(CLUSTERS[name]) > 1])
def test_faster_clusters_of_bundled_boards_draw_more(name: str):
    powers = [cluster.core_power_mw[-1] for cluster in load_soc(name).clusters]
    assert powers == sorted(powers, reverse=True)


def test_a_core_draws_more_than_its_dynamic_power_on_the_board_that_was_measured():
    # device tree rk3399-opp.dtsi: 1.2 V at 1800 MHz and 1.125 V at 1416; the board's power adds memory and regulators
    big, little = load_soc("rk3399").clusters
    for cluster, volt in ((big, 1.2), (little, 1.125)):
        dynamic_mw = cluster.dynamic_power_uw_per_mhz_v2 * cluster.max_clock_mhz * volt**2 / 1e3
        assert dynamic_mw < cluster.core_power_mw[-1] < 3 * dynamic_mw


@pytest.fixture
def soc() -> Soc:
    return parse_soc(MINIMAL, "mini.toml")


def test_cores_that_fit_side_by_side(soc: Soc):
    soc.check_cores([CoreConfiguration("big", 1), CoreConfiguration("big", 1), CoreConfiguration("little", 2)])


def test_too_many_cores_are_told_of_every_cluster(soc: Soc):
    wanted = [CoreConfiguration("big", 2), CoreConfiguration("big", 1), CoreConfiguration("little", 5)]
    with pytest.raises(UsageError) as error:
        soc.check_cores(wanted)
    assert "big: 3 cores asked for, 2 there" in str(error.value)
    assert "little: 5 cores asked for, 2 there" in str(error.value)


def test_unknown_cluster_gives_the_nearest(soc: Soc):
    with pytest.raises(UsageError, match=r"mini has no cluster 'litle'\. Did you mean little"):
        soc.cluster("litle")
    with pytest.raises(UsageError, match="no cluster 'gpu'"):
        soc.check_cores([CoreConfiguration("gpu", 1)])
