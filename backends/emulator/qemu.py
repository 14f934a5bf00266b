"""Running AArch64 code on this machine: qemu-aarch64, a C library, and for single stages a small caller."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from cospipe.backends.board.cache import cache_folder
from cospipe.backends.board.runtime_libraries import runtime_libraries
from cospipe.backends.board.sysroot import find_library
from cospipe.backends.bundle import sha256
from cospipe.backends.tvm.link import zig_compile
from cospipe.ir.errors import BoardError, EmulatorError, said_by, several
from cospipe.ir.manifest import StageFiles, TensorSpec, WeightArgument
from cospipe.ir.tensor_file import Array, TensorEntry, read_entries, write_tensors

_SYSROOTS = (Path("/usr/aarch64-linux-gnu"), Path("/"))
_LOADER = "lib/ld-linux-aarch64.so.1"
_NO_SPINNING = "TVM_THREAD_POOL_SPIN_COUNT=0"
"""Threads of a board's many cores share this machine's few: one that spins keeps those it waits for from working."""
_DLPACK_CODES = {"float": 2, "int": 0, "uint": 1, "bool": 6}


@dataclass(frozen=True)
class Qemu:
    """qemu-aarch64, and the directory in which emulated programs find the C library."""

    program: str
    sysroot: Path

    def run(self, command: Sequence[str], folder: Path) -> subprocess.CompletedProcess[str]:
        """Run a program in a folder, with nothing of this process's environment."""
        # Debian's cross libraries lie where no loader looks for them by itself
        libraries = f"LD_LIBRARY_PATH={self.sysroot / 'lib'}"
        full = [self.program, "-L", str(self.sysroot), "-E", libraries, "-E", _NO_SPINNING, *command]
        return subprocess.run(full, cwd=folder, env={}, capture_output=True, text=True, check=False)


def find_qemu(sysroot: Path | None = None) -> Qemu:
    """Return QEMU with a sysroot: the one that is named, or Debian's.

    Raises
    ------
    EmulatorError
        When QEMU or the AArch64 C and C++ libraries are missing; the message names the Debian packages.
    """
    program = shutil.which("qemu-aarch64") or shutil.which("qemu-aarch64-static")
    problems = [] if program else ["qemu-aarch64 is missing (Debian: apt-get install qemu-user)"]
    roots = _SYSROOTS if sysroot is None else (sysroot.resolve(),)
    root = next((root for root in roots if (root / _LOADER).exists()), None)
    where = "" if sysroot is None else f" in {sysroot}"
    if root is None and sysroot is not None:
        problems.append(
            f"the AArch64 C library is missing in {sysroot}; name a board's root directory, or a copy of it"
        )
    elif root is None:
        problems.append("the AArch64 C library is missing (Debian: apt-get install libc6-arm64-cross)")
    elif not find_library(root, "libstdc++.so.6", "aarch64"):
        problems.append(f"the AArch64 C++ library is missing{where} (Debian: apt-get install libstdc++6-arm64-cross)")
    if problems or program is None or root is None:
        raise EmulatorError(several("AArch64 code cannot be emulated here", problems))
    return Qemu(program, root)


@dataclass(frozen=True)
class Emulator:
    """Everything a single stage needs to run as AArch64 code here; ``options`` are further ones for QEMU."""

    qemu: str
    sysroot: Path
    runtime: Path
    runner: Path
    options: tuple[str, ...] = ()

    def run_library(
        self, stage: StageFiles, library: Path, weights: Path, values: Mapping[str, Array]
    ) -> dict[str, Array]:
        """Call a compiled stage, which need not be in a bundle, in its first build.

        Parameters
        ----------
        stage : StageFiles
            What the stage takes and returns.
        library, weights : Path
            Its files.
        values : mapping of str to array
            The stage's inputs by value name.

        Returns
        -------
        dict
            The stage's outputs by value name.

        Raises
        ------
        EmulatorError
            When the emulated program fails; the message ends with its own.
        """
        with tempfile.TemporaryDirectory(prefix="cospipe-emulator-") as scratch:
            folder = Path(scratch)
            (folder / "weights.safetensors").symlink_to(weights.resolve())
            write_tensors(folder / "inputs.safetensors", {spec.name: values[spec.name] for spec in stage.inputs})
            _write_arguments(folder, stage)
            self._call(folder, library.resolve(), stage.threads, stage.name)
            return _read_results((folder / "results").read_bytes(), stage)

    def _call(self, folder: Path, library: Path, threads: int, stage: str) -> None:
        libraries = f"LD_LIBRARY_PATH={self.runtime}:{self.sysroot / 'lib'}"
        command = [self.qemu, "-L", str(self.sysroot), "-E", libraries, *self.options, str(self.runner)]
        command += [str(self.runtime / "libtvm_runtime.so"), str(library), "arguments", "results", str(threads)]
        finished = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        if finished.returncode != 0:
            reason = said_by(finished)
            raise EmulatorError(f"{stage} failed under qemu-aarch64: {reason}")


def find_emulator() -> Emulator:
    """Return the emulator of single stages, building the caller when it is not in the cache yet.

    Raises
    ------
    EmulatorError
        When QEMU, the AArch64 C and C++ libraries or TVM's runtime are missing; the message says where to get them.
    """
    found = find_qemu()
    try:
        runtime = runtime_libraries("aarch64")
    except BoardError as error:
        raise EmulatorError(str(error)) from error
    return Emulator(found.program, found.sysroot, runtime, _build_runner(runtime))


def _build_runner(runtime: Path) -> Path:
    """Compile the caller once for each TVM version and each version of its source."""
    source = Path(__file__).with_name("stage_runner.c")
    runner = cache_folder() / "aarch64" / f"stage_runner-{runtime.name}-{sha256(source)[:12]}"
    if runner.exists():
        return runner
    spec = find_spec("tvm_ffi")
    if spec is None or spec.origin is None:
        raise EmulatorError("tvm_ffi is not installed; install it with: pip install apache-tvm-ffi.")
    include = Path(spec.origin).parent / "include"
    with tempfile.TemporaryDirectory(dir=cache_folder()) as scratch:
        new = Path(scratch) / "stage_runner"
        options = [str(source), f"-I{include}", f"-L{runtime}", "-ltvm_ffi", "-ldl", "-std=c11", "-Wall"]
        zig_compile(options, new, "aarch64")
        new.replace(runner)
    return runner


def _write_arguments(folder: Path, stage: StageFiles) -> None:
    """List inputs and weights in the order the stage takes them, and how they are prepared."""
    stored = read_entries(folder / "weights.safetensors")
    inputs = read_entries(folder / "inputs.safetensors")
    lines = [_line("inputs.safetensors", inputs[spec.name]) for spec in stage.inputs]
    for argument in stage.weight_arguments:
        if argument.function:
            lines.append(_prepared_line(argument))
        lines += [_line("weights.safetensors", stored[name]) for name in argument.weights]
    (folder / "arguments").write_text("\n".join([*lines, ""]), encoding="utf-8")


def _line(file: str, entry: TensorEntry) -> str:
    return f"tensor {file} {entry.offset_bytes} {_description(entry.dtype, entry.shape)}"


def _prepared_line(argument: WeightArgument) -> str:
    tensor = argument.tensor
    return f"prepared {argument.function} {len(argument.weights)} {_description(tensor.dtype, tensor.shape)}"


def _description(dtype: str, shape: tuple[int, ...]) -> str:
    numbers = [_DLPACK_CODES[dtype.rstrip("0123456789")], np.dtype(dtype).itemsize * 8, len(shape), *shape]
    return " ".join(map(str, numbers))


def _read_results(data: bytes, stage: StageFiles) -> dict[str, Array]:
    expected = sum(_size_bytes(spec) for spec in stage.outputs)
    if len(data) != expected:
        raise EmulatorError(f"{stage.name} returned {len(data)} bytes under qemu-aarch64, expected {expected}.")
    results, offset = {}, 0
    for spec in stage.outputs:
        flat = np.frombuffer(data, spec.dtype, count=int(np.prod(spec.shape)), offset=offset)
        results[spec.name] = flat.reshape(spec.shape)
        offset += _size_bytes(spec)
    return results


def _size_bytes(spec: TensorSpec) -> int:
    return int(np.prod(spec.shape)) * np.dtype(spec.dtype).itemsize
