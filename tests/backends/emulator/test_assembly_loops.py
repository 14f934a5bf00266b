import pytest
from hypothesis import given
from hypothesis import strategies as st

from cospipe.backends.emulator.assembly_loops import Instruction, Loop, hot_loops, innermost_loops, parse_disassembly

# an outer loop from 0x0 to 0x24 around two inner ones; the branch at 0x28 leaves for another function
NESTED = """
kernel.so:\tfile format elf64-littleaarch64

0000000000000000 <kernel>:
       0:      \tmov\tx9, #0x40                // =64
       4:      \tldp\tq0, q1, [x2], #0x20
       8:      \tfmla\tv16.4s, v0.4s, v2.s[1]
       c:      \tfmla\tv17.4s, v1.4s, v2.s[1]
      10:      \tb.ne\t0x4 <kernel+0x4>
      14:      \tcbz\tx3, 0x1c <kernel+0x1c>
      18:      \tstr\tq16, [sp, #0x10]
      1c:      \tsubs\tx4, x4, #0x1
      20:      \tcbnz\tx4, 0x14 <kernel+0x14>
      24:      \ttbnz\tw5, #0x0, 0x0 <kernel>
      28:      \tb\t0x0 <kernel>
"""


def multiply_adds(count, address=0):
    return tuple(Instruction(address + 4 * i, f"fmla v{i % 32}.4s, v30.4s, v31.4s") for i in range(count))


def test_instructions_have_address_text_and_target():
    instructions = parse_disassembly(NESTED)
    assert [i.address for i in instructions] == list(range(0, 0x2C, 4))
    assert instructions[0] == Instruction(0, "mov x9, #0x40")
    assert instructions[1] == Instruction(4, "ldp q0, q1, [x2], #0x20")
    assert instructions[4] == Instruction(0x10, "b.ne place", 4)
    assert instructions[9] == Instruction(0x24, "tbnz w5, #0x0, place", 0)


def test_only_the_innermost_loops_are_found():
    loops = innermost_loops(parse_disassembly(NESTED))
    assert [(loop.instructions[0].address, loop.instructions[-1].address) for loop in loops] == [
        (4, 0x10),
        (0x14, 0x20),
    ]


def test_a_loop_knows_its_multiply_adds_loads_and_stores():
    first, second = innermost_loops(parse_disassembly(NESTED))
    assert (first.fma, first.loads, first.stores, first.spills) == (2, 1, 0, 0)
    assert (second.fma, second.loads, second.stores, second.spills) == (0, 0, 1, 1)
    assert first.assembly.splitlines()[-1] == "b.ne place"


def test_forward_branches_make_no_loop():
    assert innermost_loops(parse_disassembly("0: cbz x0, 0x8 <f+0x8>\n4: nop\n8: ret\n")) == []


def test_a_branch_to_itself_is_a_loop_of_one():
    (loop,) = innermost_loops(parse_disassembly("0: nop\n4: b.ne 0x4 <f+0x4>\n"))
    assert loop == Loop((Instruction(4, "b.ne place", 4),))


def test_a_branch_back_to_code_that_was_not_read_makes_no_loop():
    assert innermost_loops(parse_disassembly("100: nop\n104: b.ne 0x40 <f+0x40>\n")) == []


@pytest.mark.parametrize(
    ("text", "fma"),
    [
        ("fmla v1.4s, v2.4s, v3.4s", 1),
        ("fmls v1.4s, v2.4s, v3.s[0]", 1),
        ("fmla v1.2s, v2.2s, v3.2s", 0.5),
        ("fmla v1.8h, v2.8h, v3.8h", 1),
        ("fmadd s0, s1, s2, s0", 0.25),
        ("fnmsub d0, d1, d2, d0", 0.5),
        ("fmul v1.4s, v2.4s, v3.4s", 0),
        ("fadd v1.4s, v2.4s, v3.4s", 0),
        ("fmlal v0.4s, v1.4h, v2.4h", 0),
    ],
)
def test_a_multiply_add_counts_by_its_width(text, fma):
    assert Instruction(0, text).fma == fma


@pytest.mark.parametrize(
    ("text", "is_spill"),
    [
        ("ldr q0, [sp, #0x40]", True),
        ("stp q0, q1, [sp]", True),
        ("stur q0, [x29, #-0x10]", True),
        ("ldr q0, [x29, x3]", True),
        ("ldr q0, [x2, #0x40]", False),
        ("add x2, sp, #0x40", False),
        ("ldr q0, [x2, x29]", False),
    ],
)
def test_spills_are_memory_accesses_based_on_the_stack(text, is_spill):
    assert Instruction(0, text).is_spill == is_spill


def test_hot_loops_are_those_with_most_multiply_adds():
    loops = [Loop(multiply_adds(count)) for count in (8, 64, 7, 0, 32)]
    assert [loop.fma for loop in hot_loops(loops, 4)] == [64, 32, 8]
    assert [loop.fma for loop in hot_loops(loops, 1)] == [64]
    assert hot_loops(loops[3:4], 4) == []


@given(st.lists(st.integers(0, 30), min_size=1, max_size=30))
def test_no_loop_holds_another(targets):
    """Every instruction is a conditional branch; loops that hold others are left out, all others are there."""
    text = "".join(f"{4 * i:x}: b.ne {4 * target:#x} <f>\n" for i, target in enumerate(targets))
    found = {(loop.instructions[0].address // 4, loop.instructions[-1].address // 4) for loop in loops_of(text)}
    back = {(target, i) for i, target in enumerate(targets) if target <= i}
    within = {span: set(range(span[0], span[1] + 1)) for span in back}
    assert found == {span for span in back if not any(within[other] < within[span] for other in back)}


def loops_of(text):
    return innermost_loops(parse_disassembly(text))
