"""Board directories: complete, checked, and run by their own program and libraries, under QEMU and natively."""

import json
import os
import platform
import shutil
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import torch
from native_runner import native_runner

import cospipe
from cospipe.backends.board.build import build_runner
from cospipe.backends.board.directory import directory_needs
from cospipe.backends.board.options import RunnerOptions
from cospipe.backends.bundle import open_bundle, replace_weights
from cospipe.backends.emulator.qemu import find_qemu
from cospipe.backends.runtime.compare import relative_error
from cospipe.backends.verify import verify_bundle
from cospipe.ir.errors import BoardError, EmulatorError, UsageError

PROGRAM = "cospipe-run"
FILES = {PROGRAM, "lib/libtvm_ffi.so", "lib/libtvm_runtime.so"}


@pytest.fixture(scope="module")
def made(small_network, small_inputs, tmp_path_factory):
    """A complete directory for an RK3588."""
    output = tmp_path_factory.mktemp("board") / "bundle"
    return cospipe.optimize(
        small_network, small_inputs, soc="rk3588", target="aarch64", output=output, runner=RunnerOptions()
    )


@pytest.fixture(scope="module")
def native(small_network, small_inputs, tmp_path_factory):
    """A complete directory for this machine."""
    output = tmp_path_factory.mktemp("native") / "bundle"
    return cospipe.optimize(small_network, small_inputs, soc="host", output=output, runner=native_runner())


def run_program(folder, frame, *options, prefix=()):
    """Run the program of a directory, with nothing of this process's environment, and return its results."""
    results = frame.with_name("results.npz")
    command = [*prefix, str(folder / PROGRAM), "-i", str(frame), "--repeat", "3", "-o", str(results), *options]
    done = subprocess.run(command, cwd="/", env={}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    with np.load(results) as arrays:
        return {name: arrays[name] for name in arrays.files}, done.stdout


def write_frame(bundle, path):
    reference = bundle.reference()
    np.savez(path, **{spec.name: reference[spec.name] for spec in bundle.manifest.inputs})
    return path


def assert_right(results, bundle):
    reference = bundle.reference()
    assert set(results) == {spec.name for spec in bundle.manifest.outputs}
    for name, frames in results.items():
        assert len(frames) == 3
        assert max(relative_error(frame, reference[name]) for frame in frames) < 1e-4


def moved(bundle, tmp_path):
    """Move a copy of a directory to where nobody expects it."""
    return shutil.copytree(bundle.folder, tmp_path / "else where")


@pytest.mark.emulated
def test_a_board_directory_is_complete(made, emulator):
    manifest = made.bundle.manifest
    assert {manifest.runner.program, *manifest.runner.libraries} == FILES
    assert set(manifest.files) >= FILES
    assert os.access(made.bundle.file(PROGRAM), os.X_OK)
    assert {need.architecture for need in directory_needs(made.bundle.folder).values()} == {"aarch64"}
    system = directory_needs(made.bundle.folder)[PROGRAM].libraries
    assert not {library for library in system if "stdc++" in library or "gcc" in library or "tvm" in library}


@pytest.mark.emulated
def test_its_own_program_verifies_it(made, emulator):
    result = verify_bundle(made.bundle, emulate=True)
    result.raise_if_failed()
    assert {check.part for check in result.checks} >= {"stage0", "whole", "stream"}


@pytest.mark.emulated
def test_wrong_numbers_are_found_under_qemu(made, emulator, tmp_path):
    reference = {name: np.array(array) for name, array in made.bundle.reference().items()}
    name = made.bundle.manifest.outputs[0].name
    reference[name][..., 0] += 0.01 * abs(reference[name]).max()
    wrong = replace_weights(made.bundle, {}, reference, tmp_path / "wrong")
    result = verify_bundle(wrong, emulate=True)
    assert {check.part for check in result.checks if not check.passed} >= {"whole", "stream"}
    assert {check.tensor for check in result.checks if not check.passed} == {name}


@pytest.mark.emulated
def test_a_copy_elsewhere_runs_without_anything_of_this_machine(made, emulator, tmp_path):
    qemu = find_qemu()
    frame = write_frame(made.bundle, tmp_path / "frame.npz")
    prefix = (qemu.program, "-L", str(qemu.sysroot), "-E", "TVM_THREAD_POOL_SPIN_COUNT=0")
    results, _ = run_program(moved(made.bundle, tmp_path), frame, prefix=prefix)
    assert_right(results, made.bundle)


@pytest.mark.emulated
def test_a_zip_keeps_the_program_executable(made, emulator, tmp_path):
    copy = replace_weights(made.bundle, {}, made.bundle.reference(), tmp_path / "bundle.zip")
    with zipfile.ZipFile(copy.path) as members:
        assert members.getinfo(PROGRAM).external_attr >> 16 & 0o777 == 0o755
    verify_bundle(open_bundle(copy.path), emulate=True).raise_if_failed()


@pytest.mark.emulated
def test_a_damaged_directory_is_not_run(made, emulator, tmp_path):
    folder = moved(made.bundle, tmp_path)
    library = next(folder.glob("stage*.so"))
    data = bytearray(library.read_bytes())
    data[len(data) // 2] ^= 1
    library.write_bytes(data)
    qemu = find_qemu()
    command = [qemu.program, "-L", str(qemu.sysroot), str(folder / PROGRAM), "--frames", "1"]
    done = subprocess.run(command, env={}, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert library.name in done.stderr


@pytest.mark.emulated
def test_a_sysroot_without_a_c_library_is_told(made, emulator, tmp_path):
    with pytest.raises(EmulatorError, match=f"C library is missing in {tmp_path}"):
        verify_bundle(made.bundle, emulate=True, sysroot=tmp_path)


def test_a_directory_for_this_machine_runs_by_itself(native, tmp_path):
    frame = write_frame(native.bundle, tmp_path / "frame.npz")
    results, said = run_program(moved(native.bundle, tmp_path), frame, "--json")
    assert_right(results, native.bundle)
    assert json.loads(said)["frames"] == 3
    assert {n.architecture for n in directory_needs(native.bundle.folder).values()} == {platform.machine()}


def test_both_runners_compute_the_same(native, tmp_path):
    frame = write_frame(native.bundle, tmp_path / "frame.npz")
    results, _ = run_program(native.bundle.folder, frame)
    reference = native.bundle.reference()
    ours = native.run([{spec.name: reference[spec.name] for spec in native.bundle.manifest.inputs}]).outputs[0]
    for name, array in ours.items():
        assert np.array_equal(array, results[name][0])


def test_a_newer_floor_than_the_libraries_need_is_kept(small_inputs, tmp_path):
    with pytest.raises(BoardError, match=r"libtvm_runtime\.so needs glibc 2\.\d+, newer than 2\.17"):
        cospipe.optimize(torch.nn.ReLU(), small_inputs[0], output=tmp_path / "out", runner=RunnerOptions("2.17"))
    assert not (tmp_path / "out").exists()


def test_a_compiler_that_is_not_there_is_told():
    with pytest.raises(UsageError, match="There is no compiler 'nobody-g\\+\\+'"):
        RunnerOptions(cross_compiler="nobody-g++")


def test_what_the_compiler_says_is_told(tmp_path, monkeypatch):
    monkeypatch.setenv("COSPIPE_CACHE", str(tmp_path / "cache"))
    (tmp_path / "main.cpp").write_text("int main() { return nobody(); }")
    (tmp_path / "hashes.zig").write_text("")
    with pytest.raises(BoardError, match=r"could not be built with zig: (.|\n)*nobody"):
        build_runner(platform.machine(), RunnerOptions(), sources=tmp_path)
    assert list((tmp_path / "cache").rglob("*")) == [tmp_path / "cache" / platform.machine()]


def test_a_program_is_built_again_when_its_sources_change(tmp_path, monkeypatch):
    monkeypatch.setenv("COSPIPE_CACHE", str(tmp_path / "cache"))
    (tmp_path / "hashes.zig").write_text("export fn status() c_int { return 3; }")
    steps = []
    for status in ("status()", "status() + 1", "status()"):
        (tmp_path / "main.cpp").write_text(f'extern "C" int status(); int main() {{ return {status}; }}')
        program = build_runner(platform.machine(), RunnerOptions(), steps.append, tmp_path)
        assert subprocess.run([program], env={}, check=False).returncode == (4 if "+" in status else 3)
    assert len(steps) == 2


@pytest.mark.parametrize(
    "options", [["--sysroot", "/"], ["--glibc", "2.28"], ["--glibc", "2.31", "--cross-compiler", "g++"]]
)
def test_options_of_the_runner_need_it(options, tmp_path):
    command = [sys.executable, "-m", "cospipe.cli", "optimize", "nets:small", *options]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert f"Give --runner as well: {', '.join(o for o in options if o.startswith('--'))}" in done.stderr


def test_the_command_says_what_the_board_needs(tmp_path):
    (tmp_path / "nets.py").write_text("import torch\ndef small():\n    return torch.nn.Conv2d(3, 4, 3)\n")
    command = [sys.executable, "-m", "cospipe.cli", "optimize", "nets:small", "--input-shape", "1,3,8,8", "--runner"]
    done = subprocess.run([*command, "-o", "out", "--json"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert set(said["runner"]["libraries"]) | {said["runner"]["program"]} == FILES
    assert said["runner"]["needs"]["GLIBC"].startswith("2.")
    assert said["bundle_bytes"] == open_bundle(tmp_path / "out").total_bytes
