"""ncnn's AArch64 wheel under QEMU, loaded by an AArch64 Python from Debian's packages."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ncnn_network import fill_once, installed_version

from cospipe.backends.emulator.qemu import Emulator
from cospipe.ir.errors import EmulatorError

_RUNNER = Path(__file__).with_name("ncnn_runner.py")
_LIBRARY_PACKAGES = ("libexpat1", "zlib1g")
_WHEEL_PLATFORMS = ("manylinux_2_28_aarch64", "manylinux_2_17_aarch64", "manylinux2014_aarch64")


@dataclass(frozen=True)
class EmulatedNcnn:
    """An AArch64 Python and ncnn's extension module for it."""

    python: Path
    extension: Path

    def command(self, emulator: Emulator, options: Sequence[str], network: Path, tensors: Path) -> list[str]:
        """Return the command that runs a converted network on the inputs in a folder, where the outputs go too."""
        root = self.python.parents[2]
        libraries = [root / folder / "aarch64-linux-gnu" for folder in ("lib", "usr/lib")] + [emulator.sysroot / "lib"]
        variables = {
            "LD_LIBRARY_PATH": ":".join(map(str, libraries)),
            "PYTHONHOME": str(root / "usr"),
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONHASHSEED": "0",
            "OMP_NUM_THREADS": "1",
        }
        settings = [option for name, value in variables.items() for option in ("-E", f"{name}={value}")]
        program = [str(self.python), "-S", str(_RUNNER), str(self.extension), str(network), str(tensors)]
        return [emulator.qemu, "-L", str(emulator.sysroot), *settings, *options, *program]


def find_ncnn(folder: Path) -> EmulatedNcnn:
    """Return the AArch64 Python and ncnn, fetched on first use with apt and pip into a folder.

    Raises
    ------
    EmulatorError
        When the packages cannot be downloaded; the message ends with the reason.
    UsageError
        When ncnn is not installed here, so that its version is unknown.
    """
    wanted = installed_version("ncnn")
    root = fill_once(folder / "python", _unpack_python)
    python = next(root.glob("usr/bin/python3.*"))
    number = python.name.removeprefix("python")
    wheel = fill_once(folder / f"ncnn-{wanted}-{number}", lambda scratch: _unpack_ncnn(wanted, number, scratch))
    return EmulatedNcnn(python, wheel / "ncnn")


def _unpack_python(root: Path) -> None:
    """Unpack Debian's smallest Python for AArch64; apt keeps its lists apart, the system's stay as they are."""
    with tempfile.TemporaryDirectory(prefix="apt-", dir=root.parent) as scratch:
        folder = Path(scratch)
        apt = _private_apt(folder)
        _call([*apt("apt-get"), "update"], folder)
        listed = _call([*apt("apt-cache"), "depends", "python3-minimal"], folder)
        found = re.search(r"(python3\.\d+)-minimal", listed)
        if found is None:
            raise EmulatorError("apt's sources have no python3-minimal for arm64; add that architecture to them.")
        python = found[1]
        packages = [f"{python}-minimal", f"lib{python}-minimal", f"lib{python}-stdlib", *_LIBRARY_PACKAGES]
        _call([*apt("apt-get"), "download", *packages], folder)
        for package in sorted(folder.glob("*.deb")):
            _call(["dpkg-deb", "--extract", str(package), str(root)], folder)


def _private_apt(folder: Path) -> Callable[[str], list[str]]:
    for name in ("state/lists/partial", "cache/archives/partial"):
        (folder / name).mkdir(parents=True)
    options = {
        "APT::Architecture": "arm64",
        "APT::Architectures": "arm64",
        "APT::Sandbox::User": "root",
        "Dir::State": str(folder / "state"),
        "Dir::State::status": "/dev/null",
        "Dir::Cache": str(folder / "cache"),
    }
    settings = [part for key, value in options.items() for part in ("-o", f"{key}={value}")]
    return lambda program: [program, "-qq", *settings]


def _unpack_ncnn(wanted: str, python: str, folder: Path) -> None:
    platforms = [option for platform in _WHEEL_PLATFORMS for option in ("--platform", platform)]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--only-binary=:all:", *platforms, "--python-version", python, "--dest", ".", f"ncnn=={wanted}"]
    with tempfile.TemporaryDirectory(prefix="pip-", dir=folder.parent) as scratch:
        _call(command, Path(scratch))
        with zipfile.ZipFile(next(Path(scratch).glob("ncnn-*.whl"))) as wheel:
            wheel.extractall(folder)


def _call(command: Sequence[str], folder: Path) -> str:
    if shutil.which(command[0]) is None:
        raise EmulatorError(f"{command[0]} is missing; the AArch64 Python that runs ncnn comes from Debian's packages.")
    finished = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if finished.returncode != 0:
        raise EmulatorError(f"{' '.join(command)} failed: {finished.stderr.strip() or finished.stdout.strip()}")
    return finished.stdout
