"""``cospipe profile`` and ``cospipe fit``, called as a user calls them."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from command import caller
from farm_servers import KEY, RunningServers

from cospipe.ir.profile import read_profile
from cospipe.ir.soc import load_soc

MODEL = """
import torch
from torch import nn


class Tiny(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.one, self.two = nn.Conv2d(3, channels, 3), nn.Conv2d(channels, 4, 1)

    def forward(self, image):
        return self.two(torch.relu(self.one(image)))


def tiny():
    return Tiny(8)


def wider():
    return Tiny(16)
"""
HOST = load_soc("host")
CLUSTER = HOST.clusters[0].name
SHAPE = "--input-shape", "1,3,16,16"
QUICK = *SHAPE, "--cores", f"{CLUSTER}:1", "--rounds", "3"


@pytest.fixture
def inside(tmp_path, monkeypatch, capsys):
    (tmp_path / "tiny_nets.py").write_text(MODEL)
    sys.modules.pop("tiny_nets", None)
    return caller(tmp_path, monkeypatch, capsys)


@pytest.mark.slow
def test_a_network_is_profiled_once(inside, tmp_path):
    done = inside("profile", "tiny_nets:tiny", "-o", "board.json", *QUICK, "--json")
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(done.stdout)
    assert (row["model"], row["cores"], row["is_new"]) == ("tiny_nets:tiny", f"{CLUSTER}:1", True)
    assert row["layers"] == 2
    assert row["network_us"] > 0

    written = read_profile(tmp_path / "board.json")
    assert (written.soc, written.source, written.machine) == ("host", "measured", HOST.title)
    (kernels,) = (one.kernels for one in written.networks[0].configurations.values())
    assert [kernel.nodes for kernel in kernels] == [("conv2d", "relu"), ("conv2d_1",)]

    again = inside("profile", "tiny_nets:tiny", "tiny_nets:wider", "-o", "board.json", *QUICK)
    assert "was there" in again.stdout
    assert "[1/2] tiny_nets:wider on" in again.stderr
    assert read_profile(tmp_path / "board.json").networks[0] == written.networks[0]

    anew = inside("profile", "tiny_nets:tiny", "-o", "board.json", *QUICK, "--again", "--json")
    assert [row["is_new"] for row in json.loads(anew.stdout)] == [True]


@pytest.mark.slow
def test_an_interrupted_profile_is_continued(inside, tmp_path):
    command = [sys.executable, "-m", "cospipe.cli", "profile", "tiny_nets:tiny", "tiny_nets:wider", "-o", "board.json"]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    process = subprocess.Popen(
        [*command, *QUICK], cwd=tmp_path, env=environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    )
    for line in process.stderr:
        if "tiny_nets:wider on" in line:
            process.send_signal(signal.SIGINT)
            break
    errors = process.stderr.read()
    assert process.wait(timeout=120) == 130, errors
    assert "board.json keeps what was measured; the same command continues" in errors
    assert [network.model for network in read_profile(tmp_path / "board.json").networks] == ["tiny_nets:tiny"]

    done = inside("profile", "tiny_nets:tiny", "tiny_nets:wider", "-o", "board.json", *QUICK, "--json")
    assert [row["is_new"] for row in json.loads(done.stdout)] == [False, True]


@pytest.mark.slow
def test_the_measured_source_predicts_the_network(inside):
    profiled = inside("profile", "tiny_nets:tiny", "-o", "board.json", *SHAPE, "--rounds", "3", "--json")
    rows = json.loads(profiled.stdout)
    measured = ("--source", "measured", "--profile", "board.json", "--json")
    predicted = inside("predict", "tiny_nets:tiny", "--soc", "host", *SHAPE, *measured)
    assert predicted.returncode == 0, predicted.stderr
    expected_us = {row["cores"]: row["network_us"] if row["network_runs"] else row["layers_us"] for row in rows}
    assert json.loads(predicted.stdout)["total_us"] == pytest.approx(expected_us, rel=1e-3)
    other = inside("predict", "tiny_nets:wider", "--soc", "host", *SHAPE, *measured)
    assert other.returncode == 2
    assert "does not hold this network" in other.stderr


@pytest.mark.slow
@pytest.mark.emulated
def test_a_board_is_emulated(inside, tmp_path):
    little = "--soc", "rk3399", "--cores", "little:1"
    done = inside("profile", "tiny_nets:tiny", *little, "--emulate", *SHAPE, "-o", "e.json")
    assert done.returncode == 0, done.stderr
    written = read_profile(tmp_path / "e.json")
    assert (written.soc, written.source, written.machine) == ("rk3399", "emulated", "emulated")
    assert [network.model for network in written.networks] == ["tiny_nets:tiny"]
    (emulated,) = (one for one in written.networks[0].configurations.values())
    assert emulated.network_us > 0
    assert [kernel.nodes for kernel in emulated.kernels] == [("conv2d", "relu"), ("conv2d_1",)]


@pytest.mark.slow
def test_boards_behind_a_tracker_measure(inside, tmp_path):
    with RunningServers(tmp_path, 2) as servers:
        tracker = "--rpc-tracker", ":".join(map(str, servers.tracker)), "--key", KEY
        done = inside("profile", "tiny_nets:tiny", "tiny_nets:wider", "-o", "board.json", *QUICK, *tracker, "--json")
        assert done.returncode == 0, done.stderr
        assert [row["is_new"] for row in json.loads(done.stdout)] == [True, True]
        written = read_profile(tmp_path / "board.json")
        assert written.machine == HOST.title
        for network in written.networks:
            (measured,) = network.configurations.values()
            assert measured.board.split()[0] in servers.pids
            assert [kernel.nodes for kernel in measured.kernels] == [("conv2d", "relu"), ("conv2d_1",)]

        (board, *others) = servers.pids
        for other in others:
            servers.send(other, signal.SIGKILL)
        servers.send(board, signal.SIGKILL)
        lost = inside("profile", "tiny_nets:tiny", "-o", "board.json", *QUICK, *tracker, "--again")
        assert lost.returncode == 1
        assert f"knows no board with the key '{KEY}'" in lost.stderr
    assert read_profile(tmp_path / "board.json") == written


def refused(inside, *arguments):
    done = inside("profile", "tiny_nets:tiny", "-o", "board.json", *SHAPE, *arguments)
    assert done.returncode == 2, done.stderr
    assert not done.stdout
    return done.stderr


def test_core_configurations_that_are_not_there(inside):
    assert f"host has no {CLUSTER}:99; its core configurations are {CLUSTER}:1" in refused(
        inside, "--cores", f"{CLUSTER}:99"
    )


def test_a_board_that_this_machine_is_not(inside):
    board = "rk3588" if HOST.architecture == "x86_64" else "hikey970"
    if HOST.architecture == "aarch64":
        pytest.skip("this machine may be such a board")
    assert f"This machine is not {board}" in refused(inside, "--soc", board)


def test_an_address_that_is_none(inside):
    assert "write HOST:PORT" in refused(inside, "--rpc", "rock5b")


def test_a_tracker_address_that_is_none(inside):
    assert "write HOST or HOST:PORT" in refused(inside, "--rpc-tracker", "farm:x", "--key", "k")


def test_a_tracker_needs_a_key(inside):
    assert "name that of your boards with --key" in refused(inside, "--rpc-tracker", "farm")


def test_a_board_or_a_tracker(inside):
    assert "give one of the two" in refused(inside, "--rpc", "rock5b:9090", "--rpc-tracker", "farm")


def test_emulation_needs_no_board(inside):
    assert "leave out --rpc-tracker" in refused(inside, "--rpc-tracker", "farm", "--emulate")
    assert "--emulate needs no board" in refused(inside, "--rpc", "rock5b:9090", "--emulate")


def test_a_file_that_is_no_profile(inside, tmp_path):
    (tmp_path / "board.json").write_text("{")
    assert "is not a profile" in refused(inside)


def test_a_model_that_does_not_exist(inside):
    done = inside("profile", "tiny_nets:tinny", "-o", "board.json")
    assert done.returncode == 2
    assert "tinny" in done.stderr


def test_nobody_answers(inside):
    started = time.monotonic()
    done = inside("profile", "tiny_nets:tiny", "-o", "board.json", *SHAPE, "--rpc", "127.0.0.1:1")
    assert done.returncode == 1
    assert "Nothing answers at 127.0.0.1:1" in done.stderr
    assert time.monotonic() - started < 60
