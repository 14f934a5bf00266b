"""Linking with zig, for this machine and for AArch64."""

import sys

import pytest

from cospipe.backends.tvm import link
from cospipe.backends.tvm.link import link_shared_library, zig_compile
from cospipe.ir.errors import LoweringError

ELF_MACHINES = {"x86_64": 62, "aarch64": 183}


@pytest.mark.parametrize("architecture", ELF_MACHINES)
def test_a_library_is_for_the_architecture_asked_for(tmp_path, architecture):
    source, library = tmp_path / "answer.c", tmp_path / "answer.so"
    source.write_text("int answer(void) { return 42; }\n")
    zig_compile(["-shared", "-fPIC", str(source)], library, architecture)
    header = library.read_bytes()[:20]
    assert header[:4] == b"\x7fELF"
    assert int.from_bytes(header[18:20], "little") == ELF_MACHINES[architecture]


def test_a_linker_failure_is_told_with_its_reason(tmp_path):
    broken = tmp_path / "broken.o"
    broken.write_bytes(b"this is no object file")
    with pytest.raises(LoweringError, match=r"stage0\.so could not be linked for aarch64: .*broken\.o"):
        link_shared_library([str(broken)], tmp_path / "stage0.so", "aarch64")
    assert not (tmp_path / "stage0.so").exists()


def test_a_missing_linker_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(link.sys, "executable", sys.executable)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (tmp_path / "ziglang.py").write_text("raise SystemExit('No module named ziglang')\n")
    with pytest.raises(LoweringError, match="No module named ziglang"):
        zig_compile([], tmp_path / "stage0.so", "x86_64")
