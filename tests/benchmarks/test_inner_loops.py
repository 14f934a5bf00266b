import json

import pytest
from assembly_loops import innermost_loops, parse_disassembly
from inner_loops import GOALS, app, described_clusters, measure
from llvm_mca import LlvmToolError, find_llvm_tools
from typer.testing import CliRunner


@pytest.fixture(scope="session")
def tools():
    try:
        return find_llvm_tools()
    except LlvmToolError as error:
        pytest.skip(str(error))


def fake_tool(folder, name, version):
    (folder / name).write_text(f"#!/bin/sh\necho 'LLVM version {version}'\n")
    (folder / name).chmod(0o755)


def loop_of(lines):
    text = "".join(f"{4 * i:x}: {line}\n" for i, line in enumerate(lines))
    (loop,) = innermost_loops(parse_disassembly(f"{text}{4 * len(lines):x}: b.ne 0x0 <f>\n"))
    return loop


def cycles_per_fma(tools, lines, mcpu):
    loop = loop_of(lines)
    return tools.cycles_per_turn(loop, mcpu) / loop.fma


def test_the_newest_llvm_with_both_tools_is_used(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    for suffix, version in (("", "14.0.6"), ("-19", "19.1.7"), ("-9", "9.0.1")):
        fake_tool(tmp_path, f"llvm-mca{suffix}", version)
        fake_tool(tmp_path, f"llvm-objdump{suffix}", version)
    fake_tool(tmp_path, "llvm-mca-22", "22.1.8")  # without its disassembler
    assert find_llvm_tools().version == (19, 1, 7)
    assert find_llvm_tools().analyser == tmp_path / "llvm-mca-19"


def test_without_llvm_the_error_tells_how_to_install_it(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    fake_tool(tmp_path, "llvm-mca-9", "9.0.1")
    fake_tool(tmp_path, "llvm-objdump-9", "9.0.1")
    with pytest.raises(LlvmToolError, match="apt-get install llvm-22"):
        find_llvm_tools()


def test_every_core_with_a_goal_is_in_a_chip_description():
    assert described_clusters().keys() >= GOALS.keys()


def test_all_unknown_names_are_told_at_once():
    result = CliRunner().invoke(app, ["--kernel", "conv3x2", "--mcpu", "cortex-a54"])
    assert result.exit_code == 2
    message = " ".join(result.output.replace("│", " ").split())
    assert "no kernel 'conv3x2'. Did you mean conv3x3" in message
    assert "type 'cortex-a54'. Did you mean cortex-a" in message


def test_independent_multiply_adds_take_one_cycle_each_and_a_chain_their_latency(tools):
    independent = [f"fmla v{i}.4s, v30.4s, v31.s[0]" for i in range(16)]
    chain = ["fmla v0.4s, v30.4s, v31.s[0]"] * 16
    assert cycles_per_fma(tools, independent, "cortex-a72") == pytest.approx(1, abs=0.1)
    assert cycles_per_fma(tools, chain, "cortex-a72") > 2


def test_on_a53_loads_between_multiply_adds_cost_more_than_loads_in_one_group(tools):
    loads = [f"ldr q{20 + i}, [x1, #{16 * i}]" for i in range(4)]
    products = [f"fmla v{i}.4s, v{20 + i % 4}.4s, v31.s[0]" for i in range(16)]
    mixed = [line for i in range(4) for line in (loads[i], *products[i::4])]
    grouped = cycles_per_fma(tools, loads + products, "cortex-a53")
    assert cycles_per_fma(tools, mixed, "cortex-a53") > 1.5 * grouped


@pytest.mark.parametrize("mcpu", GOALS)
def test_the_loop_of_a_pointwise_convolution_reaches_its_goal(tools, mcpu):
    ((row, _),), problems = measure("conv1x1", described_clusters()[mcpu], tools, 1)
    assert not problems
    assert row["spills"] == 0
    assert row["cycles_per_fma"] <= GOALS[mcpu]


def test_an_instruction_that_cannot_be_assembled_is_an_error(tools):
    with pytest.raises(LlvmToolError, match="llvm-mca"):
        tools.cycles_per_turn(loop_of(["fmla nonsense"]), "cortex-a53")


def test_a_file_that_is_no_library_is_an_error(tools, tmp_path):
    (tmp_path / "text.so").write_text("no machine code")
    with pytest.raises(LlvmToolError, match="llvm-objdump"):
        tools.disassemble(tmp_path / "text.so")


def test_rows_of_a_compiled_layer(tools, tmp_path):
    file = tmp_path / "rows.json"
    result = CliRunner().invoke(app, ["--kernel", "conv1x1", "--mcpu", "cortex-a72", "--json", str(file), "--listing"])
    assert result.exit_code == 0, result.output
    written = json.loads(file.read_text())
    assert written["summary"]["llvm_mca"] == ".".join(map(str, tools.version))
    row = written["rows"][0]
    assert (row["kernel"], row["mcpu"], row["loop"], row["goal"]) == ("conv1x1", "cortex-a72", 0, 1.1)
    assert row["instructions_per_fma"] == pytest.approx(row["instructions_in_loop"] / row["fma_in_loop"], abs=1e-3)
    assert row["cycles_per_fma"] > 0.99  # an A72 starts one vector FMA a cycle
    assert result.output.count("fmla") >= row["fma_in_loop"]
