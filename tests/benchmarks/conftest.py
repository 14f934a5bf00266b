"""What the tests that count instructions share."""

import os
import shutil
import subprocess

import pytest
from instruction_counter import build_plugin


@pytest.fixture(scope="session")
def qemu():
    """A qemu-aarch64 that loads plugins; CI must have QEMU, but not every Debian builds it with plugins."""
    found = shutil.which("qemu-aarch64")
    if found is None and os.environ.get("COSPIPE_REQUIRE_EMULATOR"):
        pytest.fail("qemu-aarch64 is missing")
    if found is None:
        pytest.skip("qemu-aarch64 is missing (Debian: apt-get install qemu-user)")
    if "-plugin" not in subprocess.run([found, "--help"], capture_output=True, text=True, check=False).stdout:
        pytest.skip(f"{found} was built without plugins")
    return found


@pytest.fixture(scope="session")
def plugin(qemu, tmp_path_factory):
    """The plugin, compiled for this QEMU."""
    return build_plugin(tmp_path_factory.mktemp("plugin"), qemu)
