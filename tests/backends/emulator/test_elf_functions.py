"""Names of functions, found by numbers that occur in only one of them."""

import struct
from pathlib import Path

import pytest

from cospipe.backends.emulator.elf_functions import ElfFunctions
from cospipe.backends.tvm.link import zig_compile

SOURCE = """
.macro function name number
    .type \\name, %function
    \\name:
    .cfi_startproc
    movz w9, \\number
.endm
.macro finish
    ret
    .cfi_endproc
.endm

.global __tvm_ffi_first, __tvm_ffi_second, other
function __tvm_ffi_first 101
    b first_body
finish
function __tvm_ffi_second 102
    adrp x0, second_loop
    add x0, x0, :lo12:second_loop
finish
function other 103
    bl others_own
finish
.space 70000, 0
function first_body 104
    bl deeper
finish
function deeper 105
finish
function second_loop 106
finish
function others_own 107
finish
"""
EXPORTED = {101: "first", 102: "second", 103: "other"}
INNER = {
    "stripped": {104: "first", 105: "first", 106: "second"},  # the kernel that names them
    "with names": {104: "first_body", 105: "deeper", 106: "second_loop", 107: "others_own"},
}


@pytest.fixture(scope="module", params=INNER)
def library(request, tmp_path_factory):
    return request.param, link(tmp_path_factory.mktemp("library"), "-s" if request.param == "stripped" else "-g")


def link(folder: Path, option: str) -> Path:
    (folder / "kernels.S").write_text(SOURCE)
    zig_compile(["-shared", "-nostdlib", option, str(folder / "kernels.S")], folder / "kernels.so", "aarch64")
    return folder / "kernels.so"


def place(file: Path, number: int) -> int:
    """Return the offset of the one ``movz w9, number``."""
    instruction = struct.pack("<I", 0x52800009 | number << 5)
    assert file.read_bytes().count(instruction) == 1
    return file.read_bytes().index(instruction)


def test_every_function_is_found(library):
    names, file = library
    expected = {**EXPORTED, **INNER[names]}
    functions = ElfFunctions(file)
    assert {number: functions.at(place(file, number)) for number in expected} == expected
    assert {number: functions.at(place(file, number) + 4) for number in expected} == expected


def test_a_function_that_belongs_to_no_kernel_is_told_by_its_address(tmp_path):
    file = link(tmp_path, "-s")
    found = {ElfFunctions(file).at(place(file, 107) + offset) for offset in (0, 4)}
    assert len(found) == 1
    assert found.pop().startswith("kernels+0x")


def test_a_place_outside_the_code_has_the_name_of_the_file(library):
    _, file = library
    assert ElfFunctions(file).at(file.stat().st_size + 4096) == "kernels"
