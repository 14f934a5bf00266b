"""Measuring a small network on this machine, directly and through a real RPC server on it."""

import os
import signal
import socket
import subprocess
import sys
import time

import pytest
import torch
from torch import nn

from cospipe.backends.profiling.machine import board_at, name_of_machine, this_machine_as
from cospipe.backends.profiling.measuring import Board, ThisMachine, measure
from cospipe.backends.profiling.networks import prepare_network
from cospipe.ir.errors import LoweringError, RemoteError, UsageError
from cospipe.ir.plan import CoreConfiguration
from cospipe.ir.soc import load_soc

HOST = load_soc("host")
CLUSTER = HOST.clusters[0]
ONE = CoreConfiguration(CLUSTER.name, 1)
KEY = "test-board"


class Net(nn.Module):
    """Two convolutions that differ in work, batch norm, a concatenation that is read in place, a linear layer."""

    def __init__(self):
        super().__init__()
        self.large, self.norm = nn.Conv2d(3, 64, 7, padding=3), nn.BatchNorm2d(64)
        self.small, self.head = nn.Conv2d(64, 8, 1), nn.Linear(16, 4)

    def forward(self, image):
        small = self.small(torch.relu(self.norm(self.large(image))))
        return self.head(torch.cat([small, small.sigmoid()], 1).mean((2, 3)))


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return prepare_network("nets:net", Net().eval(), (torch.randn(1, 3, 48, 48),))


@pytest.fixture(scope="module")
def measured(network):
    return measure(network, HOST, ONE, ThisMachine(), rounds=10)


def check_layers(network, profile):
    nodes = [node for kernel in profile.kernels for node in kernel.nodes]
    known = {node.name for node in network.graph_module.graph.nodes}
    assert len(nodes) == len(set(nodes))
    assert set(nodes) <= known
    assert {"conv2d", "conv2d_1", "linear"} <= {kernel.nodes[0] for kernel in profile.kernels}
    assert all(0 < kernel.median_us <= kernel.p90_us for kernel in profile.kernels)


@pytest.mark.slow
def test_every_layer_has_a_time(network, measured):
    check_layers(network, measured)
    time_us = {kernel.nodes[0]: kernel.median_us for kernel in measured.kernels}
    assert time_us["conv2d"] > 2 * time_us["conv2d_1"]  # 18 times the products
    assert measured.cpu_ids == CLUSTER.cpu_ids[:1]


@pytest.mark.slow
def test_the_whole_takes_as_long_as_its_kernels(measured):
    kernels_us = sum(kernel.median_us for kernel in measured.kernels)
    # beside its kernels the whole has calls between them; on a busy machine nobody can tell how long it took
    assert 0.8 * kernels_us < measured.network_us
    assert measured.network_us < 1.5 * kernels_us + 20 or measured.network_runs == 0


@pytest.mark.slow
def test_a_network_that_computes_something_else_is_not_timed(network):
    wrong = type(network)(
        network.name, network.graph_module, network.inputs, (network.expected[0] + 1,), network.fingerprint
    )
    with pytest.raises(LoweringError, match="something else than eager PyTorch"):
        measure(wrong, HOST, ONE, ThisMachine(), rounds=1)


@pytest.fixture(scope="module")
def server():
    """Return the port of an RPC server of TVM on this machine."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "tvm.exec.rpc_server", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--port-end", str(port + 1), "--key", KEY]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    # the server's workers outlive it, so that it is ended with everything it started
    process = subprocess.Popen(command, start_new_session=True, **quiet)
    try:
        wait_until_it_listens(port, process)
        yield port
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def wait_until_it_listens(port, process):
    line = f":{port:04X} 00000000:0000 0A"
    end = time.monotonic() + 240  # a busy machine needs a minute
    while time.monotonic() < end and process.poll() is None:
        with open("/proc/net/tcp") as table:
            if line in table.read():
                return
        time.sleep(0.1)
    pytest.fail("the RPC server did not start")


def board(port, key=KEY):
    return board_at(f"127.0.0.1:{port}", key)


@pytest.mark.slow
def test_a_board_is_measured_as_this_machine_is(network, measured, server):
    cores = CoreConfiguration(CLUSTER.name, min(2, CLUSTER.cores))
    remote = measure(network, HOST, cores, board(server), rounds=5)
    check_layers(network, remote)
    assert remote.cpu_ids == CLUSTER.cpu_ids[: cores.cores]
    assert [kernel.nodes for kernel in remote.kernels] == [kernel.nodes for kernel in measured.kernels]


@pytest.mark.slow
def test_a_board_tells_its_name(server):
    assert name_of_machine(board(server), HOST) == HOST.title


@pytest.mark.slow
def test_a_board_with_another_key(network, server):
    with pytest.raises(RemoteError, match=r"has another key than 'wrong'"):
        measure(network, HOST, ONE, board(server, "wrong"), rounds=1)


@pytest.mark.slow
def test_cores_that_the_board_does_not_have(network, server):
    cluster = CLUSTER.model_copy(update={"cpu_ids": (1000, *CLUSTER.cpu_ids[1:])})
    soc = HOST.model_copy(update={"clusters": (cluster,)})
    with pytest.raises(RemoteError, match="The board cannot run on cpu 1000"):
        measure(network, soc, ONE, board(server), rounds=1)


def test_this_machine_is_not_every_board():
    assert isinstance(this_machine_as(HOST, [ONE]), ThisMachine)
    other = load_soc("rk3588") if HOST.architecture == "x86_64" else HOST.model_copy(update={"architecture": "x86_64"})
    with pytest.raises(UsageError, match=r"This machine is not .*; name the board with --rpc"):
        this_machine_as(other, list(other.configurations()))


def test_emulation_has_no_machine():
    assert name_of_machine(None, HOST) == "emulated"


def test_addresses_are_read():
    assert board_at("rock5b:9090", "k") == Board("rock5b", 9090, "k")


@pytest.mark.parametrize("address", ["rock5b", "rock5b:", ":9090", "rock5b:port", "rock5b:99999", ""])
def test_what_is_no_address(address):
    with pytest.raises(UsageError, match="write HOST:PORT"):
        board_at(address, "k")
