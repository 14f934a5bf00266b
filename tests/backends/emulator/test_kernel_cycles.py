"""From blocks to cycles: sums over threads and functions, and cores whose rates are known."""

import pytest

from cospipe.backends.emulator.assembly_loops import Instruction
from cospipe.backends.emulator.executed_blocks import ExecutedBlock
from cospipe.backends.emulator.kernel_cycles import NO_CYCLES, KernelCycles, block_cycles, kernel_cycles
from cospipe.ir.soc import load_soc

NAMES = {100: "conv", 200: "conv", 300: "pool"}
A72 = load_soc("rk3399").cluster("big")


class NamedFunctions:
    def name(self, start):
        return NAMES[start]


class TenCyclesALine:
    """Stands in for llvm-mca; notes what it was asked."""

    def __init__(self):
        self.asked = []

    def cycles(self, pieces, mcpu):
        self.asked += [(piece, mcpu) for piece in pieces]
        return [10.0 * piece.count("\n") for piece in pieces]


def block(function, executions, *lines):
    return ExecutedBlock(function, tuple(Instruction(4 * i, line) for i, line in enumerate(lines)), executions)


FMA = tuple(f"fmla v{i}.4s, v30.4s, v31.s[0]" for i in range(16))


def test_parts_that_threads_share_take_as_long_as_the_slowest_thread():
    blocks = [
        block(100, (2, 0, 0), "mov x0, x1", "ret"),  # before the shared part, only the first thread
        block(200, (2, 2, 2), "cmp x0, x1"),
        block(200, (50, 70, 0), "add x0, x0, x1", "subs x2, x2, x3"),
        block(300, (3, 0, 0), "nop", "nop", "nop"),
    ]
    found = kernel_cycles(blocks, NamedFunctions(), TenCyclesALine(), A72)
    assert found["conv"] == KernelCycles(
        cycles=2 * 10 + (2 * 10 + 70 * 20), forks=2, instructions=2 * 2 + 6 * 1 + 120 * 2, fma=0
    )
    assert found["pool"] == KernelCycles(cycles=3 * 30, forks=0, instructions=9, fma=0)


def test_equal_blocks_are_analysed_once():
    tools = TenCyclesALine()
    blocks = [block(100, (5,), "nop"), block(200, (7,), "nop"), block(300, (1,), "ret")]
    assert block_cycles(blocks, tools, A72) == [10, 10, 0]
    assert tools.asked == [("nop\n", "cortex-a72")]


def test_no_block_is_faster_than_the_measured_peak():
    class Instant:
        def cycles(self, pieces, mcpu):
            return [0.0] * len(pieces)

    cluster = A72.model_copy(update={"flop_per_cycle": 4.0})
    assert block_cycles([block(100, (1,), *FMA)], Instant(), cluster) == [16 * 8 / 4]


@pytest.mark.parametrize(
    ("soc", "cluster", "cycles_per_fma"),
    [
        ("rk3399", "big", 1.0),  # A72: one vector multiply-add a cycle
        ("rk3399", "little", 1.0),  # A53: the same; that it loses ten cycles at the end of a turn is LLVM's view
        ("rk3588", "big", 0.5),  # A76: two
        ("rk3588", "little", 1.0),  # A55: one, though LLVM describes two
    ],
)
def test_independent_multiply_adds_run_at_the_peak_of_the_core(llvm_tools, soc, cluster, cycles_per_fma):
    loop = block(100, (1000,), *FMA * 4, "subs x1, x1, #1", "b.ne place")
    found = kernel_cycles([loop], NamedFunctions(), llvm_tools, load_soc(soc).cluster(cluster))["conv"]
    assert found.fma == 64_000
    assert found.cycles / found.fma == pytest.approx(cycles_per_fma, rel=0.15)


@pytest.mark.parametrize("name", ["hikey970", "odroid-n2", "raspberry-pi-4", "rk3588", "sd845", "vim3"])
def test_llvm_knows_every_core_that_is_described(llvm_tools, name):
    for cluster in load_soc(name).clusters:
        assert block_cycles([block(100, (1,), *FMA)], llvm_tools, cluster)[0] >= 7


def test_costs_add_up_and_divide():
    one, two = KernelCycles(100.0, 2, 50, 8.0), KernelCycles(10.0, 0, 5, 0.5)
    assert one + two == KernelCycles(110.0, 2, 55, 8.5)
    assert (one + two) / 5 == KernelCycles(22.0, 0.4, 11, 1.7)
    assert one + NO_CYCLES == one
