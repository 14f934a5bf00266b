"""Starts a tracker and servers of TVM's on this machine; run as a program, because servers are to have no torch.

They are what ``python -m tvm.exec.rpc_tracker`` and ``rpc_server`` run, forked from one process that imported TVM: for
each of them to import it takes seconds.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from cospipe.backends.tvm.link import zig_compile
from cospipe.ir.host import ARCHITECTURES

ARCHITECTURE = ARCHITECTURES[os.uname().machine]
KEY = "test-board"
_SHIM = Path(__file__).with_name("other_cpuinfo.c")
_VARIABLE = "OTHER_CPUINFO"
_OTHER_CPUINFO = {
    "x86_64": "processor\t: {cpu}\nmodel name\t: Imitation\nflags\t\t: fpu sse sse2\n\n",
    "aarch64": "processor\t: {cpu}\nmodel name\t: Imitation\nCPU implementer\t: 0x41\nCPU part\t: 0xd03\n\n",
}


@dataclass
class Servers:
    """What runs; each server leads a process group of its own."""

    tracker: tuple[str, int]
    pids: dict[str, int]
    """By address."""

    def send(self, address, number):
        """Send a signal to a server and to everything it started."""
        os.killpg(self.pids[address], number)


class RunningServers:
    """A context: ``liars`` servers say they have another processor."""

    def __init__(self, folder, count, liars=0):
        self._folder, self._count, self._liars = folder, count, liars

    def __enter__(self):
        shim, cpuinfo = self._folder / "other_cpuinfo.so", self._folder / "cpuinfo"
        zig_compile(["-shared", str(_SHIM), "-ldl"], shim, ARCHITECTURE)
        cpuinfo.write_text("".join(_OTHER_CPUINFO[ARCHITECTURE].format(cpu=cpu) for cpu in range(os.cpu_count())))
        command = [sys.executable, __file__, str(self._count), str(self._liars), str(cpuinfo)]
        environment = {**os.environ, "LD_PRELOAD": str(shim)}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        # what ends the tests must not end it before it has ended the servers
        self._process = subprocess.Popen(command, env=environment, text=True, start_new_session=True, **pipes)
        started = json.loads(self._process.stdout.readline())
        self._servers = Servers(("127.0.0.1", started["tracker"]), started["servers"])
        return self._servers

    def __exit__(self, *_):
        self._process.stdin.close()  # the others end with it
        self._process.wait()


def _listening(backlog=8):
    return socket.create_server(("127.0.0.1", 0), backlog=backlog)


def _fork(work):
    pid = os.fork()
    if pid:
        return pid
    try:
        os.setsid()
        silence = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1, 2):
            os.dup2(silence, descriptor)
        work()
    finally:
        os._exit(1)


def _main(count, liars, cpuinfo):
    sys.modules["torch"] = None  # "import torch" raises ImportError from now on
    from tvm.rpc import server, tracker

    listener = _listening()
    tracker_address = listener.getsockname()
    pids = [_fork(lambda: tracker._tracker_server(listener, "stop"))]
    listener.close()
    servers = {}
    for number in range(count):
        sock = _listening(1)
        port = sock.getsockname()[1]

        def serve(sock=sock, port=port, lies=number < liars):
            if lies:
                os.environ[_VARIABLE] = cpuinfo
            server._listen_loop(sock, port, KEY, tracker_address, None, None)

        servers[f"127.0.0.1:{port}"] = _fork(serve)
        sock.close()
    _wait_until_known(tracker_address, count)
    print(json.dumps({"tracker": tracker_address[1], "servers": servers}), flush=True)
    sys.stdin.read()
    for pid in [*pids, *servers.values()]:
        os.killpg(pid, signal.SIGKILL)


def _wait_until_known(tracker_address, count):
    from cospipe.backends.tvm.farm.tracker import Tracker

    while len(Tracker(*tracker_address, KEY).boards()) < count:
        time.sleep(0.05)


if __name__ == "__main__":
    _main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
