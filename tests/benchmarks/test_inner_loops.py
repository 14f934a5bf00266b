import json

import pytest
from inner_loops import GOALS, app, described_clusters, measure
from typer.testing import CliRunner


def test_every_core_with_a_goal_is_in_a_chip_description():
    assert described_clusters().keys() >= GOALS.keys()


def test_all_unknown_names_are_told_at_once():
    result = CliRunner().invoke(app, ["--kernel", "conv3x2", "--mcpu", "cortex-a54"])
    assert result.exit_code == 2
    message = " ".join(result.output.replace("│", " ").split())
    assert "no kernel 'conv3x2'. Did you mean conv3x3" in message
    assert "type 'cortex-a54'. Did you mean cortex-a" in message


@pytest.mark.parametrize("mcpu", GOALS)
def test_the_loop_of_a_pointwise_convolution_reaches_its_goal(llvm_tools, mcpu):
    ((row, _),), problems = measure("conv1x1", described_clusters()[mcpu], llvm_tools, 1)
    assert not problems
    assert row["spills"] == 0
    assert row["cycles_per_fma"] <= GOALS[mcpu]


def test_rows_of_a_compiled_layer(llvm_tools, tmp_path):
    file = tmp_path / "rows.json"
    result = CliRunner().invoke(app, ["--kernel", "conv1x1", "--mcpu", "cortex-a72", "--json", str(file), "--listing"])
    assert result.exit_code == 0, result.output
    written = json.loads(file.read_text())
    assert written["summary"]["llvm_mca"] == ".".join(map(str, llvm_tools.version))
    row = written["rows"][0]
    assert (row["kernel"], row["mcpu"], row["loop"], row["goal"]) == ("conv1x1", "cortex-a72", 0, 1.1)
    assert row["instructions_per_fma"] == pytest.approx(row["instructions_in_loop"] / row["fma_in_loop"], abs=1e-3)
    assert row["cycles_per_fma"] > 0.99  # an A72 starts one vector FMA a cycle
    assert result.output.count("fmla") >= row["fma_in_loop"]
