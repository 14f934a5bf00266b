import csv
import json

import pytest
import torch
import torchvision
from held_out_networks import comparable, splits
from known_networks import networks_among, shape_of
from latency_prediction import main
from layer_tables import read_layers
from torch import nn
from typer import Typer
from typer.testing import CliRunner

from cospipe.ir.capture import capture
from cospipe.ir.describe import describe_graph
from cospipe.ir.errors import UsageError
from cospipe.ir.layer import LayerKind

FIELDS = {
    "table",
    "held_out",
    "source",
    "core",
    "threads",
    "layer_median_error",
    "layer_p90_error",
    "network_error",
}
RUNNER = CliRunner()


def run(*arguments):
    app = Typer()
    app.command()(main)
    return RUNNER.invoke(app, [str(argument) for argument in arguments])


def rows_of(result):
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)["rows"]


def convolution(side, channels, columns, kernel=1, **more):
    """A row of AutoTVM's columns; 20 GFLOP/s and 30 us more, on a board of its own."""
    macs = side * side * kernel * kernel * channels * columns
    return {
        "model": "someboard",
        "task": "conv2d_nchw_spatial_pack.arm_cpu",
        "kind": "conv",
        "n": "1.0",
        "cin": channels,
        "h": side,
        "w": side,
        "cout": columns,
        "kh": kernel,
        "kw": kernel,
        "sh": 1,
        "sw": 1,
        "pt": kernel // 2,
        "pl": kernel // 2,
        "pb": kernel // 2,
        "pr": kernel // 2,
        "dil": 1,
        "groups": 1,
        "oh": side,
        "ow": side,
        "macs": macs,
        "cost_s": (2 * macs / 20e3 + 30) * 1e-6,
        "error": 0,
        **more,
    }


CONVOLUTIONS = [
    convolution(side, channels, columns, kernel)
    for side in (56, 28, 14)
    for channels, columns in ((16, 32), (48, 64), (96, 128), (64, 24))
    for kernel in (1, 3)
]


def write(path, rows):
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def test_fitted_to_one_table_and_tested_on_another(tmp_path):
    fit = write(tmp_path / "fit.csv", CONVOLUTIONS)
    test = write(tmp_path / "test.csv", [convolution(40, 32, 56), convolution(20, 80, 96, 3), convolution(20, 90, 40)])
    rows = rows_of(run("--fit", fit, "--test", test, "--json", "-"))
    assert {row["source"] for row in rows} == {"regression", "pipe-it", "extra-trees"}
    assert all(set(row) == FIELDS for row in rows)
    (regression,) = [row for row in rows if row["source"] == "regression"]
    assert regression["layer_median_error"] < 0.05
    assert regression["network_error"] < 0.05


def test_columns_that_may_be_missing(tmp_path):
    needed = ("cin", "h", "cout", "kh", "kw", "pt", "pl", "pb", "pr", "cost_s")
    rows = [{key: row[key] for key in needed} for row in CONVOLUTIONS]
    fit, test = write(tmp_path / "fit.csv", rows), write(tmp_path / "test.csv", rows[::3])
    found = rows_of(run("--fit", fit, "--test", test, "--source", "regression", "--json", "-"))
    assert found[0]["layer_median_error"] < 0.05
    (layer, *_) = read_layers(test)
    assert (layer.row.layer.output_size, layer.row.layer.stride) == ((56, 56), 1)


def test_named_networks_are_told_apart(tmp_path):
    names = ("first", "second")
    fit = [{**row, "network": names[index % 2], "threads": 3} for index, row in enumerate(CONVOLUTIONS)]
    path = write(tmp_path / "named.csv", fit)
    assert [split.held_out for split in splits(read_layers(path))] == ["first", "second"]
    rows = rows_of(run("--fit", path, "--test", path, "--source", "pipe-it", "--json", "-"))
    assert [row["held_out"] for row in rows] == ["first", "second", "all"]
    assert {row["threads"] for row in rows} == {3}


def test_a_board_nobody_measured_is_predicted_from_its_description(tmp_path):
    test = write(tmp_path / "test.csv", CONVOLUTIONS)
    options = ("--source", "analytic", "--soc", "hikey970", "--cluster", "big", "--test", test, "--json", "-")
    four, one = (rows_of(run(*options, "--cores", cores)) for cores in (4, 1))
    assert (four[0]["core"], four[0]["threads"]) == ("cortex-a73", 4)
    assert one[0]["network_error"] > four[0]["network_error"]  # 20 GFLOP/s are more than one core has


def armcl_row(network, component, side, channels, columns, kernel, **more):
    macs = side * side * kernel * kernel * channels * columns
    return {
        "network": network,
        "component": component,
        "threads": 2.0 if component == "B" else 4.0,
        "freq_mhz": 1800.0 if component == "B" else 1416.0,
        "kind": "conv",
        "time_ms": macs / 8e6 + 0.05,
        "cin": channels,
        "h": side,
        "w": side,
        "cout": columns,
        "oh": side,
        "ow": side,
        "kh": kernel,
        "kw": kernel,
        "stride": 1,
        "groups": 1,
        **more,
    }


def test_each_network_of_a_folder_of_tables_is_left_out(tmp_path):
    rows = [
        armcl_row(network, component, side, 16 * width, 32, kernel)
        for component in "BL"
        for network, side in (("a", 28), ("b", 24), ("c", 14))
        for width in (1, 2, 3)
        for kernel in (1, 3)
    ]
    rows += [
        armcl_row("a", "B", 28, 16, 16, 3, groups=16, kind="dwconv"),
        armcl_row("a", "B", 28, 16, 16, 3, freq_mhz=408),
    ]
    write(tmp_path / "armcl_rk3399pro_ops.csv", rows)
    found = rows_of(run("--data", tmp_path, "--json", "-"))
    assert {(row["core"], row["threads"]) for row in found} == {("cortex-a72", 2), ("cortex-a53", 4)}
    assert {row["held_out"] for row in found} == {"a", "b", "c", "all"}
    assert {row["source"] for row in found} == {"regression", "pipe-it", "extra-trees", "analytic"}
    regression = [row for row in found if row["source"] == "regression" and row["held_out"] == "all"]
    assert all(row["layer_median_error"] < 0.05 for row in regression)


def test_what_only_one_network_has_is_left_out(tmp_path):
    only = armcl_row("a", "B", 28, 16, 16, 3, groups=16, kind="dwconv")
    rows = [
        armcl_row(network, "B", side, 16, 32, kernel) for network in "ab" for side in (28, 14, 7) for kernel in (1, 3)
    ]
    layers = read_layers(write(tmp_path / "armcl_rk3399pro_ops.csv", [*rows, only]))
    kinds = {layer.row.layer.kind for layer in comparable(layers)}
    assert kinds == {LayerKind.CONV, LayerKind.POINTWISE_CONV}


def test_rows_that_contradict_themselves_and_failed_measurements_are_left_out(tmp_path, capsys):
    # 35 pixels by a 1x1 kernel of stride 2 are 18, never 17
    rows = [convolution(28, 16, 32), convolution(35, 16, 32, sh=2, oh=17, ow=17), convolution(28, 16, 48, error=4)]
    assert len(read_layers(write(tmp_path / "test.csv", rows))) == 1
    assert "1 rows contradict themselves" in capsys.readouterr().err


@pytest.mark.parametrize("cost", ["-0.1", "0", "nan", "soon"])
def test_times_that_cannot_be(tmp_path, cost):
    path = write(tmp_path / "test.csv", [convolution(28, 16, 32), convolution(28, 16, 48, cost_s=cost)])
    with pytest.raises(UsageError, match="1 cost_s are no positive number"):
        read_layers(path)


def test_bad_tables_and_options_are_answered_by_sentences(tmp_path):
    without = [{key: value for key, value in row.items() if key not in ("cin", "kh")} for row in CONVOLUTIONS]
    other = write(tmp_path / "other.csv", [{"a": 1}])
    empty = write(tmp_path / "empty.csv", [convolution(28, 16, 32, kind="pool")])
    good = write(tmp_path / "good.csv", CONVOLUTIONS)
    for arguments, text in (
        (("--fit", good, "--test", write(tmp_path / "without.csv", without)), "has no column 'cin', 'kh'"),
        (("--fit", good, "--test", other), "no column of times that is known here"),
        (("--fit", good, "--test", empty), "has no convolution with all its sizes"),
        (("--fit", good, "--test", tmp_path / "missing.csv"), "cannot be read"),
        (("--data", tmp_path), "is none of the tables"),
        (("--test", good), "Name tables to fit to with --fit"),
        ((), "Name a folder of tables with --data"),
        (("--fit", good, "--test", good, "--source", "guess"), "There is no source 'guess'"),
        (("--source", "analytic", "--soc", "hikey970", "--cores", 9, "--test", good), "does not have these cores"),
    ):
        result = run(*arguments)
        assert result.exit_code == 2
        assert text in result.stderr


def test_networks_are_recognised_by_their_shapes():
    network = torchvision.models.squeezenet1_1(weights=None).eval()
    graph = capture(network, (torch.zeros(1, 3, 224, 224),)).graph
    layers = [layer for layer in describe_graph(graph).values() if layer.macs and layer.kernel]
    found = networks_among(layers)
    assert list(found) == ["squeezenet1_1"]
    assert sum(found["squeezenet1_1"].values()) == sum(isinstance(m, nn.Conv2d) for m in network.modules())
    assert {shape_of(layer) for layer in layers} == set(found["squeezenet1_1"])
    assert networks_among(layers[:5]) == {}


def test_kinds_and_boards_that_are_not_in_the_fit(tmp_path):
    depthwise = convolution(28, 32, 32, 3, groups=32, kind="dwconv")
    fit = write(tmp_path / "fit.csv", CONVOLUTIONS)
    test = write(tmp_path / "test.csv", [convolution(40, 32, 56), convolution(20, 80, 96, 3), depthwise])
    result = run("--fit", fit, "--test", test, "--json", "-")
    assert "1 layers of kinds that are not in the fit" in result.stderr
    assert len(rows_of(result)) == 3
    result = run("--fit", fit, "--test", write(tmp_path / "other.csv", [depthwise]))
    assert "No kind of convolution in" in result.stderr
    renamed = [{**row, "model": "elsewhere"} for row in CONVOLUTIONS]
    assert rows_of(run("--fit", fit, "--test", write(tmp_path / "renamed.csv", renamed), "--json", "-"))
    two = write(tmp_path / "two.csv", [*CONVOLUTIONS, {**CONVOLUTIONS[0], "model": "second"}])
    result = run("--fit", two, "--test", tmp_path / "renamed.csv")
    assert result.exit_code == 2
    assert "take --source analytic" in result.stderr
