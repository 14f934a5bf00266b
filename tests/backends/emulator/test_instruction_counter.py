"""The plugin that counts instructions, against programs whose instructions are known one by one."""

import shutil
import subprocess
from pathlib import Path

import pytest
from assembly_program import MARK, MARK_INSTRUCTIONS, program, run
from instruction_profile import counts_by_function, profile_rows

from cospipe.backends.emulator import instruction_counter
from cospipe.backends.emulator.instruction_counter import Counts, build_plugin, plugin_options, read_report
from cospipe.ir.errors import EmulatorError, UsageError

pytestmark = pytest.mark.emulated

FMA = """
    fmla v0.4s, v1.4s, v2.4s
    fmla v0.2d, v1.2d, v2.2d
    fmls v0.2s, v1.2s, v2.2s
    fmla v31.4s, v30.4s, v29.s[3]
    fmls v0.2d, v1.2d, v2.d[1]
    fmla s0, s1, v2.s[2]
    fmadd s0, s1, s2, s3
    fmsub d0, d1, d2, d3
    fnmadd s0, s1, s2, s3
    fnmsub d0, d1, d2, d3
"""
LOADS = """
    ldr x1, [x9]
    ldrb w1, [x9, 8]
    ldrsh x1, [x9], 8
    ldrsw x1, [x9, -8]!
    ldur w1, [x9, 1]
    ldr x1, [x9, x10, lsl 3]
    ldp x1, x2, [x9, 16]
    ldpsw x1, x2, [x9]
    ldr x1, literal
    ldr q1, literal
    ldr b1, [x9]
    ldr q1, [x9, 16]
    ldur d1, [x9, 3]
    ldp q1, q2, [x9], 32
    ld1 {v1.4s}, [x9]
    ld1 {v1.4s, v2.4s, v3.4s, v4.4s}, [x9]
    ld4 {v1.4s, v2.4s, v3.4s, v4.4s}, [x9]
    ld1r {v1.4s}, [x9]
    ld1 {v1.s}[2], [x9], 4
    ldar w1, [x9, 0]
"""
STORES = """
    str x1, [x9]
    strb w1, [x9, 8]
    strh w1, [x9], 8
    stur w1, [x9, 1]
    str x1, [x9, x10, lsl 3]
    stp x1, x2, [x9, 16]
    str b1, [x9]
    str q1, [x9, 16]
    stur q1, [x9, 3]
    stp q1, q2, [x9], 32
    st1 {v1.4s}, [x9]
    st4 {v1.4s, v2.4s, v3.4s, v4.4s}, [x9]
    st1 {v1.s}[2], [x9], 4
    stlr w1, [x9, 0]
"""
NEITHER = """
    nop
    prfm pldl1keep, [x9, 64]
    prfm pldl1keep, [x9, x10]
    prfum pldl1keep, [x9, 1]
    prfm pldl1keep, literal
    madd x1, x2, x3, x4
    mla v0.4s, v1.4s, v2.4s
    mla v0.4s, v1.4s, v2.s[1]
    fmul v0.4s, v1.4s, v2.s[1]
    fmulx v0.4s, v1.4s, v2.4s
    fadd v0.4s, v1.4s, v2.4s
    fcvtl v0.4s, v1.4h
    dup v0.4s, v1.s[0]
    mov v0.s[1], v1.s[0]
    mrs x1, tpidr_el0
    adrp x1, literal
"""


def counted(qemu, plugin, file):
    return run(qemu, plugin, file).total


@pytest.mark.parametrize(
    ("body", "kind"), [(FMA, "fma"), (LOADS, "loads"), (STORES, "stores"), (NEITHER, "")], ids=lambda value: value[:6]
)
def test_each_instruction_is_of_its_kind(qemu, plugin, tmp_path, body, kind):
    lines = len(body.strip().splitlines())
    found = counted(qemu, plugin, program(tmp_path, body))
    expected = Counts(instructions=lines + MARK_INSTRUCTIONS)
    assert found == Counts(**{**vars(expected), **({kind: lines} if kind else {})})


def test_a_loop_counts_as_often_as_it_runs(qemu, plugin, tmp_path):
    body = """
        mov x1, 1000
    1:  ldp q1, q2, [x9]
        fmla v0.4s, v1.4s, v2.s[0]
        fmla v3.4s, v1.4s, v2.s[1]
        str q0, [x9, 32]
        subs x1, x1, 1
        b.ne 1b
    """
    found = counted(qemu, plugin, program(tmp_path, body))
    assert found == Counts(instructions=1 + 6 * 1000 + MARK_INSTRUCTIONS, fma=2000, loads=1000, stores=1000)


def test_functions_count_what_they_execute_themselves(qemu, plugin, tmp_path):
    functions = """
        .type triple, %function
        triple:
            fmadd s0, s1, s2, s3
            fmadd s0, s1, s2, s3
            fmadd s0, s1, s2, s3
            ret
        .type single, %function
        single:
            ldr x1, [x9]
            ret
    """
    report = run(qemu, plugin, program(tmp_path, "bl triple\n bl single\n bl triple\n bl triple\n", functions))
    by_function = counts_by_function(report)
    assert by_function == {
        "triple": Counts(instructions=12, fma=9),
        "single": Counts(instructions=2, loads=1),
        "_start": Counts(instructions=4 + MARK_INSTRUCTIONS),
    }
    rows = profile_rows(report, functions=2)
    assert [(row["function"], row["instructions"]) for row in rows] == [("triple", 12), ("_start", 9), ("1 others", 2)]
    assert rows[0]["per_fma"] == pytest.approx(12 / 9, abs=1e-3)
    assert sum(row["percent"] for row in rows) == pytest.approx(100, abs=0.1)


def test_only_the_last_pair_of_marks_is_reported(qemu, plugin, tmp_path):
    again = f"{FMA} {MARK.format(begins=0)} nop \n nop {MARK.format(begins=1)} nop"
    assert counted(qemu, plugin, program(tmp_path, again)) == Counts(instructions=1 + MARK_INSTRUCTIONS)


def test_the_plugin_is_built_once_for_each_version_of_its_source(qemu, plugin, tmp_path, monkeypatch):
    built = plugin.stat().st_mtime_ns
    assert build_plugin(plugin.parent, qemu) == plugin
    assert plugin.stat().st_mtime_ns == built
    changed = tmp_path / "changed.c"
    changed.write_text(f"/* new */\n{instruction_counter.SOURCE.read_text()}")
    monkeypatch.setattr(instruction_counter, "SOURCE", changed)
    again = build_plugin(plugin.parent, qemu)
    assert again != plugin
    assert counted(qemu, again, program(tmp_path, "nop\n")) == Counts(instructions=1 + MARK_INSTRUCTIONS)


def test_without_a_system_compiler_zig_builds_the_plugin(qemu, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    zigs = build_plugin(tmp_path, qemu)
    assert counted(qemu, zigs, program(tmp_path, "nop\n")) == Counts(instructions=1 + MARK_INSTRUCTIONS)


def test_a_qemu_without_plugins_is_told(tmp_path):
    old = tmp_path / "qemu"
    old.write_text("#!/bin/sh\necho usage: qemu-aarch64 [options] program\n")
    old.chmod(0o755)
    with pytest.raises(EmulatorError, match="built without plugins"):
        build_plugin(tmp_path, str(old))


def test_what_the_compiler_says_is_told(qemu, tmp_path, monkeypatch):
    broken = tmp_path / "broken.c"
    broken.write_text("this is no C")
    monkeypatch.setattr(instruction_counter, "SOURCE", broken)
    with pytest.raises(EmulatorError, match=r"broken\.c could not be compiled: (.|\n)*this is no C"):
        build_plugin(tmp_path, qemu)


def test_the_plugin_wants_to_know_where_the_report_goes(qemu, plugin):
    finished = subprocess.run([qemu, "-plugin", str(plugin), "/bin/true"], capture_output=True, text=True, check=False)
    assert finished.returncode != 0
    assert "report=FILE" in finished.stderr


def test_cores_that_qemu_lacks_are_emulated_by_like_ones(qemu):
    options = plugin_options(Path("p.so"), Path("r"), "cortex-a73", qemu)
    assert options[:2] in (("-cpu", "cortex-a72"), ("-cpu", "cortex-a73"))
    with pytest.raises(UsageError, match=r"does not emulate cortex-a7777\. Did you mean"):
        plugin_options(Path("p.so"), Path("r"), "cortex-a7777", qemu)


def test_a_program_without_marks_is_told(tmp_path):
    with pytest.raises(EmulatorError, match="set no marks"):
        read_report(tmp_path / "report")


def test_work_of_other_threads_is_refused(tmp_path):
    report = tmp_path / "report"
    report.write_text("marked 0\nblock 0x1000 2 1 0 0 0 5\nblock 0x2000 7 0 0 0 1 3\n")
    with pytest.raises(EmulatorError, match="Other threads executed 21 instructions"):
        read_report(report)
