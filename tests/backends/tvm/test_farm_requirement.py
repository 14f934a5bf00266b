"""What boards say of themselves against what is wanted of them."""

import pytest
from tvm.target import Target

from cospipe.backends.tvm.farm.board import Board, slow_boards
from cospipe.backends.tvm.farm.requirement import (
    BoardFacts,
    BoardRequirement,
    board_problems,
    read_facts,
    soc_requirement,
    target_requirement,
    usable_cores,
)
from cospipe.ir.plan import CoreConfiguration
from cospipe.ir.soc import load_soc

VERSION = "0.27.0"
A55 = "processor\t: {cpu}\nFeatures\t: fp asimd asimdhp asimddp\nCPU implementer\t: 0x41\nCPU part\t: 0xd05\n\n"
A76 = A55.replace("0xd05", "0xd0b")
A53 = "processor\t: {cpu}\nFeatures\t: fp asimd\nCPU implementer\t: 0x41\nCPU part\t: 0xd03\n\n"


def facts(*processors, online="", version=VERSION):
    files = {
        "/proc/cpuinfo": "".join(text.format(cpu=cpu) for cpu, text in enumerate(processors)),
        "/sys/devices/system/cpu/online": online,
    }
    return read_facts(lambda file: files[file], "a board", version, 1.0)


RK3588 = facts(*[A55] * 4, *[A76] * 4)


def wanted(text):
    soc = load_soc("rk3588")
    return soc_requirement(soc, [CoreConfiguration.parse(part) for part in text.split("+")])


def problems(board, requirement):
    return "; ".join(board_problems(board, requirement, VERSION))


def test_a_board_that_fits():
    assert not problems(RK3588, wanted("big:4+little:4"))
    assert usable_cores(RK3588, wanted("big:2")) == load_soc("rk3588").cluster("big").cpu_ids[:2]


def test_another_version_of_tvm():
    assert problems(facts(*[A55] * 4, version="0.26.0"), wanted("little:1")) == "it has TVM 0.26.0, here it is 0.27.0"


def test_a_version_that_nobody_tells_is_no_problem():
    assert not problems(facts(*[A55] * 4, version=""), wanted("little:1"))


def test_the_wrong_cores():
    told = problems(facts(*[A53] * 8), wanted("little:1+big:1"))
    assert "cpu 0 is cortex-a53, not cortex-a55" in told
    assert "cpu 4 is cortex-a53, not cortex-a76" in told


def test_cores_that_are_switched_off():
    assert problems(facts(*[A55] * 4, *[A76] * 4, online="0-5"), wanted("big:4")) == (
        "it has no cpu 6, 7, or not switched on"
    )


def test_missing_features():
    requirement = BoardRequirement("aarch64", {0: "cortex-a53"}, features=("+neon", "+dotprod"))
    assert problems(facts(A53), requirement) == "cpu 0 lacks +dotprod"


def target(cores=1, **attributes):
    return target_requirement(Target({"kind": "llvm", "num-cores": cores, **attributes}), cores)


def test_cores_of_a_target_are_found():
    requirement = target(2, mtriple="aarch64-linux-gnu", mcpu="cortex-a76")
    assert requirement.architecture == "aarch64"
    assert usable_cores(RK3588, requirement) == (4, 5)
    assert not problems(RK3588, requirement)


def test_a_target_that_the_board_has_not():
    requirement = target(1, mtriple="aarch64-linux-gnu", mcpu="cortex-a72")
    told = problems(RK3588, requirement)
    assert "it has 0 cores of cortex-a72, wanted are 1" in told
    assert "is cortex-a55, not cortex-a72" in told


def test_generic_targets_take_any_core():
    assert usable_cores(RK3588, target(3, mtriple="aarch64-linux-gnu")) == (0, 1, 2)


X86 = "processor\t: {cpu}\nmodel name\t: A PC\nflags\t\t: fpu sse sse2 cx16 lahf_lm popcnt pni sse4_1 sse4_2 ssse3\n\n"


@pytest.mark.parametrize(
    ("attributes", "problem"),
    [
        ({"mcpu": "x86-64-v2"}, ""),
        ({"mcpu": "x86-64-v3"}, "reaches x86-64-v2, not x86-64-v3"),
        ({"mattr": ["+avx2"]}, "lacks avx2"),
        ({"mattr": ["+sse4.2"]}, ""),
    ],
)
def test_what_an_x86_board_reaches(attributes, problem):
    told = problems(facts(X86), target(mtriple="x86_64-linux-gnu", **attributes))
    assert problem in told
    assert bool(told) == bool(problem)


def board(address, time_us, first_us=None):
    told = BoardFacts("", {}, frozenset(), VERSION, time_us)
    return Board(address, process=None, facts=told, first_reference_us=first_us or time_us)


def test_a_slow_board_among_its_likes():
    slow = slow_boards([board("a", 100), board("b", 110), board("c", 160)], 1.5)
    assert slow == {}
    slow = slow_boards([board("a", 100), board("b", 110), board("c", 170)], 1.5)
    assert list(slow) == ["c"]
    assert "170 us, boards of this key take 110 us" in slow["c"]


def test_two_boards_are_too_few_to_tell():
    assert not slow_boards([board("a", 100), board("b", 900)], 1.5)


def test_a_board_that_became_slow():
    assert "90 us, it took at first 50 us" in slow_boards([board("a", 90, 50), board("b", 80)], 1.5)["a"]
