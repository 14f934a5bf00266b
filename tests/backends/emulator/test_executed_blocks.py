"""Cutting executed code into blocks, against programs and reports whose counts are known one by one."""

from collections import Counter
from pathlib import Path

import pytest
from assembly_program import MARK_INSTRUCTIONS, program, run
from hypothesis import given
from hypothesis import strategies as st

from cospipe.backends.emulator.assembly_loops import Instruction
from cospipe.backends.emulator.elf_functions import ElfFunctions
from cospipe.backends.emulator.executed_blocks import executed_blocks
from cospipe.backends.emulator.instruction_counter import Block, Counts, Mapped, Report
from cospipe.ir.errors import EmulatorError

NEST = """
    mov x1, 10
1:  mov x2, 30
    movi v0.4s, 0
2:  ldr q1, [x9]
    fmla v0.4s, v1.4s, v1.s[0]
    subs x2, x2, 1
    b.ne 2b
    cmp x1, 4
    b.gt 3f
    fmla v2.4s, v1.4s, v1.4s
    fmla v3.4s, v1.4s, v1.4s
3:  str q0, [x9]
    bl leaf
    subs x1, x1, 1
    b.ne 1b
"""
LEAF = """
    .type leaf, %function
    leaf:
        fadd v4.4s, v4.4s, v4.4s
        ret
"""


@pytest.fixture(scope="module")
def nest(qemu, plugin, llvm_tools, tmp_path_factory):
    """What a nest of two loops with a condition and a call executed, and the blocks of it."""
    file = program(tmp_path_factory.mktemp("nest"), NEST, LEAF)
    report = run(qemu, plugin, file)
    return report, executed_blocks(report, file, ElfFunctions(file), llvm_tools.disassemble(file))


@pytest.mark.emulated
def test_blocks_hold_all_that_was_executed(nest):
    report, blocks = nest
    assert sum(block.executed_instructions for block in blocks) == report.total.instructions
    assert sum(block.fma * sum(block.executions) for block in blocks) == report.total.fma == 10 * 30 + 4 * 2


@pytest.mark.emulated
def test_each_loop_and_each_condition_is_a_block(nest):
    _, blocks = nest
    found = {(block.executions[0], len(block.instructions), block.instructions[0].mnemonic) for block in blocks}
    assert found >= {(10, 2, "mov"), (300, 4, "ldr"), (4, 2, "fmla"), (10, 2, "fadd"), (10, 4, "str")}
    assert (1, MARK_INSTRUCTIONS, "mov") in found
    assert all(len(block.executions) == 1 for block in blocks)  # one thread


@pytest.mark.emulated
def test_blocks_do_not_reach_over_functions_and_leave_calls_out(nest):
    _, blocks = nest
    assert len({block.function for block in blocks}) == 2
    texts = "".join(block.assembly for block in blocks)
    assert "str q0, [x9]\nsubs x1, x1, #0x1\n" in texts
    assert "ret" not in texts


CODE = 64
"""Instructions of the made-up library; the functions start at these."""
STARTS = (0, 20, 40)
LIBRARY = Path("/made/up.so")


class MadeUpFunctions:
    """A library at address 4096 whose first byte is the file's first."""

    def address(self, offset_bytes):
        return 4096 + offset_bytes

    def start(self, address):
        return max(4096 + 4 * start for start in STARTS if 4096 + 4 * start <= address)


def made_up_code(targets):
    return [made_up_instruction(place, targets.get(place)) for place in range(CODE)]


def made_up_instruction(place, target):
    if target is None:
        return Instruction(4096 + 4 * place, "nop")
    return Instruction(4096 + 4 * place, "b.ne place", 4096 + 4 * target)


A_RUN = st.tuples(st.integers(0, CODE - 8), st.integers(1, 8), st.integers(0, 3), st.integers(1, 50))
"""First instruction, how many, thread, executions."""
RUNS = st.lists(A_RUN, min_size=1, max_size=12)
TARGETS = st.dictionaries(st.integers(0, CODE - 1), st.integers(0, CODE - 1), max_size=6)


def made_up_report(runs):
    blocks = [Block(0x7000 + 4 * first, Counts(size), {thread: times}) for first, size, thread, times in runs]
    elsewhere = Block(0x100000, Counts(instructions=5), {0: 7})
    return Report((*blocks, elsewhere), (Mapped(0x7000, 0x8000, 0, str(LIBRARY)),), marked_by=2)


@given(RUNS, TARGETS)
def test_every_instruction_is_in_one_block_with_its_own_count(runs, targets):
    """Translated runs may overlap; an instruction counts in all of them."""
    expected = Counter()
    for first, size, thread, times in runs:
        for place in range(first, first + size):
            expected[place, thread] += times
    threads = sorted({thread for _, _, thread, _ in runs}, key=lambda thread: (thread != 2, thread))
    blocks = executed_blocks(made_up_report(runs), LIBRARY, MadeUpFunctions(), made_up_code(targets))
    found = {}
    for block in blocks:
        for instruction in block.instructions:
            place = (instruction.address - 4096) // 4
            assert place not in found
            found[place] = block.executions
            assert block.function == MadeUpFunctions().start(instruction.address)
    assert found == {
        place: tuple(expected[place, thread] for thread in threads) for place in {place for place, _ in expected}
    }


@given(RUNS, TARGETS)
def test_no_block_reaches_over_the_border_of_a_loop(runs, targets):
    back = {end: start for end, start in targets.items() if start <= end}
    for block in executed_blocks(made_up_report(runs), LIBRARY, MadeUpFunctions(), made_up_code(targets)):
        first, last = ((block.instructions[i].address - 4096) // 4 for i in (0, -1))
        assert not any(first < start <= last for start in back.values())
        assert not any(first <= end < last for end in back)


def test_a_library_that_was_not_executed_is_told():
    with pytest.raises(EmulatorError, match=r"nothing of other\.so was executed"):
        executed_blocks(made_up_report([(0, 1, 0, 1)]), Path("/other.so"), MadeUpFunctions(), made_up_code({}))


def test_another_disassembly_than_what_ran_is_told():
    with pytest.raises(EmulatorError, match=r"up\.so lacks 8 instructions at 0x1\w+ that were executed"):
        executed_blocks(made_up_report([(50, 8, 0, 1)]), LIBRARY, MadeUpFunctions(), made_up_code({})[:55])
