"""The servers that docs/board-farm.md tells to start, on this machine, without torch."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from farm_servers import ARCHITECTURE, RunningServers

from cospipe.backends.tvm.farm.tracker import Tracker
from cospipe.backends.tvm.kernel_clock import KernelClock, build_clock
from cospipe.backends.tvm.sessions import RemoteSession

PAGE = Path(__file__).parents[3] / "docs" / "board-farm.md"
NO_TORCH = "import sys\nsys.modules['torch'] = None\n"
KEY = "a-board"


def start(folder, arguments):
    (folder / "sitecustomize.py").write_text(NO_TORCH)
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return subprocess.Popen([sys.executable, *arguments], env=environment, start_new_session=True, cwd=folder, **quiet)


def offer_of(tracker, process):
    end = time.monotonic() + 240  # a busy machine needs a minute
    while time.monotonic() < end and process.poll() is None:
        if offer := tracker.wait_for_offer(1):
            return offer
    pytest.fail("the server did not start")


def documented_server(tracker_address):
    (script,) = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    return ["-c", script, tracker_address, KEY]


def tvms_server(tracker_address):
    return ["-m", "tvm.exec.rpc_server", "--host", "127.0.0.1", "--tracker", tracker_address, "--key", KEY]


@pytest.mark.slow
@pytest.mark.parametrize("server", [documented_server, tvms_server])
def test_a_server_without_torch(tmp_path, server):
    clock = build_clock(tmp_path, ARCHITECTURE)
    with RunningServers(tmp_path, 0) as servers:
        process = start(tmp_path, server(":".join(map(str, servers.tracker))))
        try:
            offer = offer_of(Tracker(*servers.tracker, KEY), process)
            session = RemoteSession(offer.host, offer.port, offer.match_key)
            remote_clock = KernelClock(session, clock)
            assert remote_clock.reference_us() > 0
            assert remote_clock.library("libtvm_runtime.so").endswith("libtvm_runtime.so")
            assert not remote_clock.library("libtorch_cpu.so")
            if server is documented_server:
                pid = int(remote_clock.read("/proc/self/stat").split()[0])
                os.kill(pid, signal.SIGKILL)
                assert process.wait(timeout=30) == 1
        finally:
            if process.poll() is None or server is tvms_server:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
