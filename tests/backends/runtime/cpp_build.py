"""Builds of cospipe-run for the tests: by CMake, once for each kind, by whichever test process comes first."""

import fcntl
import os
import shutil
import subprocess
import sys
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
SOURCES = ROOT / "backends" / "runtime" / "cpp"
BUILDS = ROOT / "build" / "cpp"

SANITIZERS = {
    "plain": [],
    "address": ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer"],
    "thread": ["-fsanitize=thread"],
}
"""By kind of build; CMakeLists.txt has the same."""
OPTIMISED = {"plain": "-O1", "address": "-O0 -g1", "thread": "-O0 -g1"}
"""Compiling takes longer than running the tests: sanitized code takes three times as long with -O1."""
ENVIRONMENT = {
    "ASAN_OPTIONS": "detect_leaks=1:exitcode=97:allocator_may_return_null=1",
    "UBSAN_OPTIONS": "print_stacktrace=1",
    "TSAN_OPTIONS": "exitcode=97",
}
LEAK_CHECK = """
__attribute__((weak)) void __lsan_do_leak_check(void);
void __real__Exit(int status);
void __wrap__Exit(int status) {
  if (__lsan_do_leak_check) __lsan_do_leak_check();
  __real__Exit(status);
}
"""
"""The program leaves by _Exit, which LeakSanitizer does not notice."""


def require_tools(*tools, variable="COSPIPE_REQUIRE_RUNNER"):
    """Skip where a program is missing; fail where the environment says that it must be there."""
    missing = [tool for tool in tools if shutil.which(tool) is None]
    if not missing:
        return
    reason = f"{' and '.join(missing)} missing (Debian: apt-get install cmake g++)"
    if os.environ.get(variable):
        pytest.fail(reason)
    pytest.skip(reason)


@contextmanager
def locked(folder):
    """Let one process of a parallel test run build in a directory; the others find it done."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def run(command, **options):
    """Run a command that must succeed."""
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False, **options)
    assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stdout}\n{done.stderr}"
    return done


def is_newer(file, others):
    """Tell whether a file is there and newer than all others."""
    return file.exists() and all(file.stat().st_mtime > other.stat().st_mtime for other in others)


def tvm_ffi_include():
    """Return the directory with the headers of tvm_ffi's C interface."""
    import tvm_ffi

    return Path(tvm_ffi.__file__).parent / "include"


def json_include():
    """Return the directory with nlohmann's headers."""
    import nlohmann_json

    return Path(nlohmann_json.__file__).parent / "include"


def hashes(folder):
    """Return hashes.zig as an object file in a directory."""
    compiled, source = folder / "zig_hashes.o", SOURCES / "hashes.zig"
    if not is_newer(compiled, [source]):
        options = ["-O", "ReleaseFast", "-fPIC", "-fstrip", "-mcpu=baseline", f"-femit-bin={compiled}"]
        run([sys.executable, "-m", "ziglang", "build-obj", *options, source])
    return compiled


def configure(folder, **definitions):
    """Let CMake make a build directory."""
    common = {
        "CMAKE_BUILD_TYPE": "None",
        "CMAKE_COMPILE_WARNING_AS_ERROR": "ON",
        "COSPIPE_TVM_FFI_INCLUDE": tvm_ffi_include(),
        "COSPIPE_JSON_INCLUDE": json_include(),
        "COSPIPE_HASHES": hashes(folder),
    }
    options = [f"-D{name}={value}" for name, value in (common | definitions).items()]
    run(["cmake", "-S", SOURCES, "-B", folder, *options])


@cache
def built(kind):
    """Return the directory with ``cospipe-run`` and ``libcospipe_core.a``: plain, or under sanitizers."""
    require_tools("cmake", "g++")
    folder = BUILDS / kind
    with locked(folder):
        linked = _leak_check(folder) if kind == "address" else ""
        sanitize = "" if kind == "plain" else kind
        flags = {"CMAKE_CXX_FLAGS": OPTIMISED[kind], "CMAKE_EXE_LINKER_FLAGS": linked}
        configure(folder, COSPIPE_SANITIZE=sanitize, **flags)
        run(["cmake", "--build", folder, "--parallel", "2", "--target", "cospipe-run"])
    return folder


@cache
def driver(source):
    """Return a program of the tests that uses the C++ code, under the address sanitizer."""
    folder = built("address")
    program, core = folder / source.stem, folder / "libcospipe_core.a"
    with locked(folder):
        if not is_newer(program, [source, core]):
            flags = ["-std=c++17", "-O1", "-g1", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-pthread"]
            flags += [*SANITIZERS["address"], "-I", SOURCES, "-isystem", json_include()]
            run(["g++", *flags, source, core, hashes(folder), "-ldl", "-o", program])
    return program


def _leak_check(folder):
    source, compiled = folder / "leak_check.c", folder / "leak_check.o"
    source.write_text(LEAK_CHECK)
    run(["gcc", "-c", source, "-o", compiled])
    return f"{compiled} -Wl,--wrap=_Exit"
