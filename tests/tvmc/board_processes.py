"""A tracker and servers of TVM's on this machine, started as their manuals say, where torch cannot be imported."""

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager

from tvm import rpc

START_S = 240  # a busy machine needs a minute


@contextmanager
def board_processes(folder, key):
    """Yield the ports of a tracker that has a board with the key, and of a server without tracker and key."""
    (folder / "torch.py").write_text('raise ImportError("there is no torch on a board")\n')
    with ExitStack() as started:
        tracker, keyed, plain = (_free_port() for _ in range(3))
        started.enter_context(_process(folder, "rpc_tracker", tracker))
        started.enter_context(_process(folder, "rpc_server", keyed, "--tracker", f"127.0.0.1:{tracker}", "--key", key))
        started.enter_context(_process(folder, "rpc_server", plain))
        _wait(lambda: key in rpc.connect_tracker("127.0.0.1", tracker).summary()["queue_info"])
        _wait(lambda: rpc.connect("127.0.0.1", plain))
        yield tracker, plain


def _free_port():
    with socket.create_server(("127.0.0.1", 0)) as free:
        return free.getsockname()[1]


@contextmanager
def _process(folder, module, port, *arguments):
    command = [sys.executable, "-m", f"tvm.exec.{module}", "--host", "127.0.0.1", "--port", str(port), *arguments]
    command += ["--port-end", str(port + 1)]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    # servers' workers outlive them, so that they are ended with everything they started
    process = subprocess.Popen(command, start_new_session=True, env=environment, **quiet)
    try:
        yield
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _wait(question):
    end = time.monotonic() + START_S
    while time.monotonic() < end:
        try:
            if question():
                return
        except Exception:  # nothing listens yet; TVM raises what it likes
            pass
        time.sleep(0.2)
    raise TimeoutError("TVM's tracker or servers did not start")
