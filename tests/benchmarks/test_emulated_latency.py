"""Predictions by emulation as benchmarks: rows, the comparison with a table, mistakes."""

import json

import pytest
import torch
from emulated_convolutions import Convolution, read_convolutions, summarise
from emulated_convolutions import app as convolutions
from emulated_latency import app, measure
from torch import nn
from typer.testing import CliRunner

from cospipe.backends.emulator.cycle_counter import find_cycle_counter
from cospipe.backends.profiling.networks import prepare_network
from cospipe.ir.errors import UsageError
from cospipe.ir.plan import CoreConfiguration
from cospipe.ir.soc import load_soc

HEADER = "model,task,cin,h,w,cout,kh,kw,sh,sw,pt,pl,groups,cost_s"
TABLE = f"""{HEADER}
rk3399,spatial_pack,8.0,14.0,14.0,16.0,1.0,1.0,1.0,1.0,0.0,0.0,1.0,0.0002
rk3399,spatial_pack,8.0,14.0,14.0,16.0,1.0,1.0,1.0,1.0,0.0,0.0,1.0,0.0001
rk3399,spatial_pack,8.0,14.0,14.0,16.0,3.0,3.0,1.0,1.0,1.0,1.0,1.0,0.0005
rk3399,winograd,8.0,14.0,14.0,16.0,3.0,3.0,2.0,2.0,1.0,1.0,1.0,0.0005
rk3399,depthwise,8.0,14.0,14.0,8.0,3.0,3.0,1.0,1.0,1.0,1.0,8.0,0.00003
bcm2837,spatial_pack,8.0,28.0,28.0,16.0,1.0,1.0,1.0,1.0,0.0,0.0,1.0,0.0003
"""
POINTWISE = Convolution((8, 14, 14, 16, 1, 1, 1, 1, 0, 0, 1), 100.0)
DEPTHWISE = Convolution((8, 14, 14, 8, 3, 3, 1, 1, 1, 1, 8), 30.0)


@pytest.fixture
def table(tmp_path):
    file = tmp_path / "table.csv"
    file.write_text(TABLE)
    return file


def test_the_fastest_time_of_each_direct_convolution_of_the_board_is_read(table):
    found = {convolution.sizes: convolution.measured_us for convolution in read_convolutions(table, "rk3399", 10)}
    assert found == pytest.approx({POINTWISE.sizes: 100.0, DEPTHWISE.sizes: 30.0})
    assert len(read_convolutions(table, "rk3399", 1)) == 1
    assert DEPTHWISE.module()(DEPTHWISE.input()).shape == (1, 8, 14, 14)
    assert (POINTWISE.text, DEPTHWISE.text) == ("8x14x14 to 16, 1x1/1", "8x14x14 to 8, 3x3/1, 8 groups")


@pytest.mark.parametrize(
    ("text", "board", "message"),
    [
        (TABLE, "rk3398", "no board 'rk3398'. Did you mean rk3399"),
        ("model,task\nrk3399,conv\n", "rk3399", "lacks columns(.|\n)*cost_s(.|\n)*groups"),
        (HEADER, "rk3399", "lacks columns"),
    ],
)
def test_wrong_tables_are_told(tmp_path, text, board, message):
    file = tmp_path / "table.csv"
    file.write_text(text)
    with pytest.raises(UsageError, match=message):
        read_convolutions(file, board, 3)


def test_a_missing_table_is_told(tmp_path):
    with pytest.raises(UsageError, match="cannot be read"):
        read_convolutions(tmp_path / "nothing.csv", "rk3399", 3)


def test_deviations_are_from_the_median_ratio():
    rows = [
        {"measured_us": 100.0, "emulated_us": emulated, "analytic_us": 50.0} for emulated in (60.0, 80.0, 80.0, 100.0)
    ]
    assert summarise(rows) == {
        "emulated_ratio": 0.8,
        "emulated_deviation": 0.125,
        "analytic_ratio": 0.5,
        "analytic_deviation": 0.0,
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--soc", "odroid-xu4", "--models", "alexnet"], "odroid-xu4 is no aarch64 chip"),
        (["--cores", "big:5"], "5 cores asked for, 4 there"),
        (["--cores", "big"], "'big' is not a core configuration"),
        (["--models", "resnet81"], "has no 'resnet81'"),
    ],
)
def test_mistakes_are_told_before_any_work(arguments, message):
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2
    assert message in " ".join(result.output.replace("│", " ").split()).lower()


@pytest.fixture(scope="module")
def counter(emulator, plugin, llvm_tools):
    return find_cycle_counter(["cortex-a72", "cortex-a53"])


@pytest.mark.emulated
def test_a_row_of_a_small_network(counter):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 64, 1)).eval()
    network = prepare_network("small", model, (torch.randn(1, 3, 64, 64),))
    row = measure(network, load_soc("rk3399"), CoreConfiguration("big", 1), counter)
    macs = (3 * 9 * 16 + 16 * 64) * 32 * 32
    assert (row["model"], row["soc"], row["cores"], row["core_type"]) == ("small", "rk3399", "big:1", "cortex-a72")
    assert row["fma"] == pytest.approx(macs / 4e6, rel=0.03)
    assert row["instructions"] > row["fma"]
    assert 0.3 < row["peak_share"] <= 1
    assert row["peak_share"] == pytest.approx(row["fma"] / row["megacycles"], abs=2e-3)  # one a cycle on this core
    assert row["emulated_ms"] > 1e3 * row["megacycles"] / row["clock_mhz"]
    assert 0 <= row["memory_bound"] <= 1
    assert row["analytic_ms"] > 0


@pytest.mark.emulated
def test_predictions_stand_beside_the_table(counter, table, tmp_path):
    file = tmp_path / "rows.json"
    result = CliRunner().invoke(convolutions, ["--data", str(table), "--cores", "little:1", "--json", str(file)])
    assert result.exit_code == 0, result.output
    written = json.loads(file.read_text())
    assert {row["convolution"]: row["measured_us"] for row in written["rows"]} == {
        POINTWISE.text: 100,
        DEPTHWISE.text: 30,
    }
    assert min(row["emulated_us"] for row in written["rows"]) > 0
    assert written["summary"]["emulated_ratio"] > 0
