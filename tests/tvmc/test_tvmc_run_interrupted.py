"""Ctrl-C while ``tvmc run`` runs a kernel: it ends at once, and nothing is written."""

import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from library_packages import write_library_package
from torch import nn

ENOUGH_FOR_A_DAY = 100_000_000


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    inputs = (torch.ones(1, 64),)
    return write_library_package(nn.Linear(64, 64), inputs, ["x"], tmp_path_factory.mktemp("package") / "linear.tar")


def test_interrupt(package, tmp_path):
    output = tmp_path / "out.npz"
    command = [sys.executable, "-m", "cospipe.tvmc", "run", str(package), "-o", str(output), "--print-time"]
    command += ["--number", str(ENOUGH_FOR_A_DAY)]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    try:
        wait_until_it_computes(process)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=120)
    finally:
        process.kill()
    assert (process.returncode, out) == (130, ""), err
    assert err.startswith("Interrupted")
    assert list(tmp_path.iterdir()) == []


def wait_until_it_computes(process):
    """Wait until the library of the package is mapped into the process, and some moments longer."""
    while process.poll() is None:
        with open(f"/proc/{process.pid}/maps") as maps:
            if "/lib.so" in maps.read():
                return time.sleep(1)
        time.sleep(0.05)
    pytest.fail(process.communicate()[1])
