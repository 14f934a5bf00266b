"""libFuzzer on everything of cospipe-run that reads files of strangers, from the corpus that longer runs left."""

import os
import shutil
import subprocess
from pathlib import Path

import cpp_build
import pytest

TARGETS = ("manifest", "safetensors", "adapter", "npy", "npz")
CORPUS = Path(__file__).with_name("fuzz_corpus")
COMPILERS = ("clang++-19", "clang++")
BUILD = cpp_build.BUILDS / "fuzz"
WORDS = cpp_build.SOURCES / "fuzz" / "words.dict"
RUNS = 2000
EMPTY_TARGET = 'extern "C" int LLVMFuzzerTestOneInput(const unsigned char*, unsigned long) { return 0; }'
ENVIRONMENT = {"ASAN_OPTIONS": "allocator_may_return_null=1", "UBSAN_OPTIONS": "print_stacktrace=1"}


def compiler():
    """Return a clang whose libFuzzer links; a machine without one skips, but CI must not."""
    for name in filter(shutil.which, COMPILERS):
        command = [name, "-fsanitize=fuzzer,address,undefined", "-x", "c++", "-", "-o", "/dev/null"]
        if subprocess.run(command, input=EMPTY_TARGET, capture_output=True, text=True, check=False).returncode == 0:
            return name
    reason = "there is no clang with libFuzzer (Debian: apt-get install clang-19 libclang-rt-19-dev)"
    if os.environ.get("COSPIPE_REQUIRE_FUZZER"):
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def fuzzers():
    """The directory of the targets, built where a source is newer."""
    cpp_build.require_tools("cmake", variable="COSPIPE_REQUIRE_FUZZER")
    found = compiler()
    with cpp_build.locked(BUILD):
        cpp_build.configure(BUILD, CMAKE_CXX_COMPILER=found, COSPIPE_FUZZ="ON", CMAKE_CXX_FLAGS="-O0 -g1")
        cpp_build.run(["cmake", "--build", BUILD, "--parallel", "2", "--target", "fuzzers"])
    return BUILD / "fuzz"


@pytest.mark.parametrize("target", TARGETS)
def test_no_input_breaks_a_reader(fuzzers, tmp_path, target):
    options = [f"-runs={RUNS}", "-seed=1", "-max_len=8192", "-rss_limit_mb=2048", f"-dict={WORDS}"]
    options += [f"-artifact_prefix={tmp_path}/", "-print_final_stats=1"]
    (tmp_path / "found").mkdir()
    command = [fuzzers / f"fuzz_{target}", *options, tmp_path / "found", CORPUS / target]
    environment = os.environ | ENVIRONMENT
    done = subprocess.run([*map(str, command)], capture_output=True, env=environment, check=False)
    said = done.stderr.decode(errors="replace")
    assert done.returncode == 0, f"{said[-20000:]}\n{[*tmp_path.iterdir()]}"
    executed = next(line for line in said.splitlines() if line.startswith("stat::number_of_executed_units"))
    assert int(executed.split()[-1]) >= RUNS


@pytest.mark.parametrize("target", TARGETS)
def test_the_corpus_is_small(target):
    files = [*(CORPUS / target).iterdir()]
    assert 3 <= len(files) <= 100
    assert sum(file.stat().st_size for file in files) < 200_000
