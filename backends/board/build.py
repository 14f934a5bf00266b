"""Building ``cospipe-run`` from its sources, once for each architecture, C library and compiler."""

from __future__ import annotations

import hashlib
import os
import subprocess
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import distribution, version
from pathlib import Path

import cospipe.backends.runtime
from cospipe.backends.board.cache import kept
from cospipe.backends.board.options import RunnerOptions
from cospipe.backends.tvm.link import zig, zig_target
from cospipe.ir.errors import BoardError, said_by

PROGRAM = "cospipe-run"
SOURCES = Path(cospipe.backends.runtime.__file__).parent / "cpp"

_PACKAGES = ("apache-tvm-ffi", "cospipe", "nlohmann-json", "ziglang")
_COMPILING = ("-std=c++17", "-O2", "-fPIE", "-fstack-protector-strong", "-ffunction-sections", "-fdata-sections")
_LINKING = ("-pie", "-pthread", "-ldl", "-s", "-Wl,-z,relro", "-Wl,-z,now", "-Wl,--gc-sections")
_STATIC_CPP_LIBRARY = ("-static-libstdc++", "-static-libgcc")
_HASHES = "hashes.zig"


def build_runner(
    architecture: str,
    options: RunnerOptions,
    progress: Callable[[str], None] = lambda _: None,
    sources: Path = SOURCES,
) -> Path:
    """Return ``cospipe-run`` for an architecture; it needs the C library and nothing else of the system.

    Parameters
    ----------
    architecture : str
        ``aarch64`` or ``x86_64``.
    options : RunnerOptions
        The compiler and the oldest C library.
    progress : callable
        Is told when it must be built.
    sources : Path
        Directory with the sources.

    Raises
    ------
    BoardError
        With the compiler's own words when it fails.
    """
    compiler = _compiler(architecture, options)
    key = _fingerprint(sources, compiler, options)

    def fill(folder: Path) -> None:
        progress(f"Building {PROGRAM} for {architecture}; the first time this takes a minute or more")
        with tempfile.TemporaryDirectory(prefix="objects-") as scratch:
            objects = _compile_all(sources, architecture, compiler, options, Path(scratch))
            _call([*compiler, *objects, *_LINKING, "-o", str(folder / PROGRAM)], options)

    return kept(f"{architecture}/runner-glibc{options.glibc}-{key}", fill) / PROGRAM


def _compile_all(
    sources: Path, architecture: str, compiler: list[str], options: RunnerOptions, folder: Path
) -> list[str]:
    """Compile every source, as many at once as there are cores; return the object files."""
    includes = [f"-I{include}" for include in (sources, *_include_folders())]
    common = [*compiler, f'-DCOSPIPE_VERSION="{version("cospipe")}"', *includes, *_COMPILING]
    hashes = str(folder / "hashes.o")
    commands = {hashes: [*_hashes_command(architecture, options), str(sources / _HASHES), f"-femit-bin={hashes}"]}
    for file in sorted(sources.glob("*.cpp")):
        compiled = str(folder / f"{file.stem}.cpp.o")
        commands[compiled] = [*common, "-c", str(file), "-o", compiled]
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as workers:
        for _ in workers.map(lambda command: _call(command, options), commands.values()):
            pass
    return list(commands)


def _compiler(architecture: str, options: RunnerOptions) -> list[str]:
    if not options.cross_compiler:
        return zig("c++", "-target", zig_target(architecture, options.glibc))
    has_headers = options.sysroot is not None and (Path(options.sysroot) / "usr/include").is_dir()
    sysroot = [f"--sysroot={Path(str(options.sysroot)).resolve()}"] if has_headers else []
    return [options.cross_compiler, *sysroot, *_STATIC_CPP_LIBRARY]


def _hashes_command(architecture: str, options: RunnerOptions) -> list[str]:
    """Hashes come from zig's standard library, whatever compiles the rest."""
    target = zig_target(architecture, options.glibc)
    # probes of the stack are functions of zig's own library, which another linker does not have
    return zig("build-obj", "-target", target, "-O", "ReleaseSafe", "-fPIC", "-fstrip", "-fno-stack-check")


def _include_folders() -> list[Path]:
    members = {"apache-tvm-ffi": "tvm_ffi/include", "nlohmann-json": "nlohmann_json/include"}
    return [Path(str(distribution(package).locate_file(member))) for package, member in members.items()]


def _fingerprint(sources: Path, compiler: list[str], options: RunnerOptions) -> str:
    """Return a name for everything the program depends on."""
    versions = [version(package) for package in _PACKAGES]
    digest = hashlib.sha256(repr([compiler, _COMPILING, _LINKING, versions]).encode())
    if options.cross_compiler:
        finished = subprocess.run([options.cross_compiler, "--version"], capture_output=True, check=False)
        digest.update(finished.stdout)
    for file in sorted(sources.iterdir()):
        if file.suffix in (".cpp", ".h", ".zig"):
            digest.update(file.name.encode() + b"\0" + hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()[:16]


def _call(command: list[str], options: RunnerOptions) -> None:
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    if finished.returncode != 0:
        compiler = options.cross_compiler or "zig"
        raise BoardError(f"{PROGRAM} could not be built with {compiler}: {said_by(finished)}")
