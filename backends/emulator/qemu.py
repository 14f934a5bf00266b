"""Running AArch64 stages on this machine: qemu-aarch64, a C library, the AArch64 TVM runtime and a small caller."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from cospipe.backends.bundle import Bundle, sha256
from cospipe.backends.emulator.aarch64_runtime import aarch64_runtime, cache_folder
from cospipe.backends.tvm.link import zig_compile
from cospipe.ir.errors import EmulatorError, several
from cospipe.ir.manifest import StageFiles, TensorSpec, WeightArgument
from cospipe.ir.tensor_file import Array, TensorEntry, read_entries, write_tensors

_SYSROOTS = (Path("/usr/aarch64-linux-gnu"), Path("/"))
_LOADER = "lib/ld-linux-aarch64.so.1"
_CPP_LIBRARIES = tuple(
    f"{folder}/libstdc++.so.6" for folder in ("lib", "usr/lib/aarch64-linux-gnu", "lib/aarch64-linux-gnu")
)
_DLPACK_CODES = {"float": 2, "int": 0, "uint": 1, "bool": 6}


@dataclass(frozen=True)
class Emulator:
    """Everything a stage needs to run as AArch64 code on this machine; ``options`` are further ones for QEMU."""

    qemu: str
    sysroot: Path
    runtime: Path
    runner: Path
    options: tuple[str, ...] = ()

    def run_stage(
        self,
        bundle: Bundle,
        stage: StageFiles,
        values: Mapping[str, Array],
        overrides: Mapping[str, Array] | None = None,
    ) -> dict[str, Array]:
        """Call one stage of a bundle, in its first build.

        Parameters
        ----------
        bundle : Bundle
            An AArch64 bundle.
        stage : StageFiles
            One of its stages.
        values : mapping of str to array
            The stage's inputs by value name.
        overrides : mapping of str to array, optional
            Values that take the place of stored weights, by name.

        Returns
        -------
        dict
            The stage's outputs by value name.

        Raises
        ------
        EmulatorError
            When the emulated program fails; the message ends with its own.
        """
        files = bundle.file(stage.library), bundle.file(stage.weights)
        return self.run_library(stage, *files, values, overrides)

    def run_library(
        self,
        stage: StageFiles,
        library: Path,
        weights: Path,
        values: Mapping[str, Array],
        overrides: Mapping[str, Array] | None = None,
    ) -> dict[str, Array]:
        """Call a compiled stage that need not be in a bundle: ``library`` and ``weights`` are its files.

        Everything else is as for :meth:`run_stage`.
        """
        with tempfile.TemporaryDirectory(prefix="cospipe-emulator-") as scratch:
            folder = Path(scratch)
            (folder / "weights.safetensors").symlink_to(weights.resolve())
            write_tensors(folder / "inputs.safetensors", {spec.name: values[spec.name] for spec in stage.inputs})
            write_tensors(folder / "overrides.safetensors", overrides or {})
            _write_arguments(folder, stage)
            self._call(folder, library.resolve(), stage.threads, stage.name)
            return _read_results((folder / "results").read_bytes(), stage)

    def _call(self, folder: Path, library: Path, threads: int, stage: str) -> None:
        libraries = f"LD_LIBRARY_PATH={self.runtime}:{self.sysroot / 'lib'}"
        command = [self.qemu, "-L", str(self.sysroot), "-E", libraries, *self.options, str(self.runner)]
        command += [str(self.runtime / "libtvm_runtime.so"), str(library), "arguments", "results", str(threads)]
        finished = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        if finished.returncode != 0:
            reason = finished.stderr.strip() or f"it ended with status {finished.returncode}"
            raise EmulatorError(f"{stage} failed under qemu-aarch64: {reason}")


def find_emulator() -> Emulator:
    """Return the emulator, building the caller when it is not in the cache yet.

    Raises
    ------
    EmulatorError
        When QEMU or the AArch64 C and C++ libraries are missing; the message names the Debian packages.
    """
    qemu = shutil.which("qemu-aarch64") or shutil.which("qemu-aarch64-static")
    sysroot = next((root for root in _SYSROOTS if (root / _LOADER).exists()), None)
    problems = [] if qemu else ["qemu-aarch64 is missing (Debian: apt-get install qemu-user)"]
    if sysroot is None:
        problems.append("the AArch64 C library is missing (Debian: apt-get install libc6-arm64-cross)")
    elif not any((sysroot / library).exists() for library in _CPP_LIBRARIES):
        problems.append("the AArch64 C++ library is missing (Debian: apt-get install libstdc++6-arm64-cross)")
    if problems or qemu is None or sysroot is None:
        raise EmulatorError(several("AArch64 code cannot be emulated here", problems))
    runtime = aarch64_runtime()
    return Emulator(qemu, sysroot, runtime, _build_runner(runtime))


def _build_runner(runtime: Path) -> Path:
    """Compile the caller once for each TVM version and each version of its source."""
    source = Path(__file__).with_name("stage_runner.c")
    runner = runtime / f"stage_runner-{sha256(source)[:12]}"
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
    files = ("weights.safetensors", "overrides.safetensors")
    weights = {name: _line(file, entry) for file in files for name, entry in read_entries(folder / file).items()}
    inputs = read_entries(folder / "inputs.safetensors")
    lines = [_line("inputs.safetensors", inputs[spec.name]) for spec in stage.inputs]
    for argument in stage.weight_arguments:
        if argument.function:
            lines.append(_prepared_line(argument))
        lines += [weights[name] for name in argument.weights]
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
