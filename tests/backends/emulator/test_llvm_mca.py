"""LLVM's analyser: finding it, and what it says of code whose cycles are known."""

import pytest

from cospipe.backends.emulator.assembly_loops import innermost_loops, parse_disassembly
from cospipe.backends.emulator.llvm_mca import ITERATIONS, LlvmToolError, find_llvm_tools


def fake_tool(folder, name, version):
    (folder / name).write_text(f"#!/bin/sh\necho 'LLVM version {version}'\n")
    (folder / name).chmod(0o755)


def loop_of(lines):
    text = "".join(f"{4 * i:x}: {line}\n" for i, line in enumerate(lines))
    (loop,) = innermost_loops(parse_disassembly(f"{text}{4 * len(lines):x}: b.ne 0x0 <f>\n"))
    return loop


def cycles_per_fma(llvm_tools, lines, mcpu):
    loop = loop_of(lines)
    return llvm_tools.cycles_per_turn(loop, mcpu) / loop.fma


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


def test_independent_multiply_adds_take_one_cycle_each_and_a_chain_their_latency(llvm_tools):
    independent = [f"fmla v{i}.4s, v30.4s, v31.s[0]" for i in range(16)]
    chain = ["fmla v0.4s, v30.4s, v31.s[0]"] * 16
    assert cycles_per_fma(llvm_tools, independent, "cortex-a72") == pytest.approx(1, abs=0.1)
    assert cycles_per_fma(llvm_tools, chain, "cortex-a72") > 2


def test_on_a53_loads_between_multiply_adds_cost_more_than_loads_in_one_group(llvm_tools):
    loads = [f"ldr q{20 + i}, [x1, #{16 * i}]" for i in range(4)]
    products = [f"fmla v{i}.4s, v{20 + i % 4}.4s, v31.s[0]" for i in range(16)]
    mixed = [line for i in range(4) for line in (loads[i], *products[i::4])]
    grouped = cycles_per_fma(llvm_tools, loads + products, "cortex-a53")
    assert cycles_per_fma(llvm_tools, mixed, "cortex-a53") > 1.5 * grouped


def test_an_instruction_that_cannot_be_assembled_is_an_error(llvm_tools):
    with pytest.raises(LlvmToolError, match="llvm-mca"):
        llvm_tools.cycles_per_turn(loop_of(["fmla nonsense"]), "cortex-a53")


def test_a_file_that_is_no_library_is_an_error(llvm_tools, tmp_path):
    (tmp_path / "text.so").write_text("no machine code")
    with pytest.raises(LlvmToolError, match="llvm-objdump"):
        llvm_tools.disassemble(tmp_path / "text.so")


def test_a_minimum_version_is_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    fake_tool(tmp_path, "llvm-mca", "16.0.6")
    fake_tool(tmp_path, "llvm-objdump", "16.0.6")
    assert find_llvm_tools().version == (16, 0, 6)
    with pytest.raises(LlvmToolError, match="llvm-mca and llvm-objdump 17 or newer"):
        find_llvm_tools(17)


def test_pieces_of_code_do_not_disturb_each_other(llvm_tools):
    pieces = [
        "fmla v0.4s, v30.4s, v31.s[0]\n" * 8,
        "add x1, x1, #1\nb.ne place\n",
        "".join(f"fmla v{i}.4s, v30.4s, v31.s[0]\n" for i in range(16)),
        "sdiv x0, x1, x2",
    ]
    together = llvm_tools.cycles(pieces, "cortex-a72")
    assert together == [llvm_tools.cycles([piece], "cortex-a72")[0] for piece in pieces]
    assert len(set(together)) == len(pieces)
    assert together[2] == pytest.approx(16, abs=16 / ITERATIONS * 2)
    assert llvm_tools.cycles([], "cortex-a72") == []


def test_optional_instructions_are_no_mistake(llvm_tools):
    assert llvm_tools.cycles(["sdot v0.4s, v1.16b, v2.16b\nfmla v3.8h, v4.8h, v5.8h"], "cortex-a53")[0] > 0


def test_an_unknown_core_is_told_with_what_to_do(llvm_tools):
    llvm_tools.check_core("cortex-a55")
    with pytest.raises(LlvmToolError, match=r"describes no AArch64 core 'cortex-a99'; core_type of the SoC"):
        llvm_tools.check_core("cortex-a99")
