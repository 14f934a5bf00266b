"""``tvmc run`` on a board: one tracker and two servers on this machine, without torch."""

import socket
from contextlib import contextmanager

import numpy as np
import pytest
from board_processes import board_processes
from library_packages import with_metadata, write_library_package

from cospipe.backends.tvm import sessions
from cospipe.backends.tvm.farm import tracker
from cospipe.backends.tvm.tvmc.package import open_package
from cospipe.tvmc.main import _main

KEY = "test-board"


@pytest.fixture(scope="module")
def ports(tmp_path_factory):
    with board_processes(tmp_path_factory.mktemp("board"), KEY) as ports:
        yield ports


@pytest.fixture(scope="module")
def tracked(ports):
    return "--rpc-tracker", f"127.0.0.1:{ports[0]}", "--rpc-key", KEY


@pytest.fixture(scope="module")
def package(small_network, small_inputs, tmp_path_factory):
    output = tmp_path_factory.mktemp("package") / "small.tar"
    return write_library_package(small_network, small_inputs, ["image", "offset"], output)


def run(*arguments):
    return _main(["run", *map(str, arguments)])


def failure(capsys, *arguments):
    assert run(*arguments) == 4
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("Error: ")
    return captured.err


def test_a_board_computes_what_this_machine_does(package, tracked, ports, tmp_path):
    assert run(package, "-o", tmp_path / "here.npz") == 0
    assert run(package, "-o", tmp_path / "tracked.npz", *tracked) == 0
    assert run(package, "-o", tmp_path / "plain.npz", "--rpc-tracker", f"127.0.0.1:{ports[1]}") == 0
    with np.load(tmp_path / "here.npz") as expected:
        for name in ("tracked", "plain"):
            with np.load(tmp_path / f"{name}.npz") as outputs:
                assert list(outputs) == list(expected)
                assert all(np.allclose(outputs[output], expected[output], rtol=1e-5) for output in expected)


def test_a_board_is_measured_and_profiled(package, tracked, capsys):
    assert run(package, *tracked, "--print-time", "--repeat", 2, "--end-to-end", "--profile", "--print-top", 2) == 0
    text = capsys.readouterr().out
    assert all(kernel.name in text for kernel in open_package(package).metadata.kernels)
    assert "Execution time summary:" in text
    assert text.rstrip().endswith("]]")


def test_a_network_that_fails_on_a_board(tracked, tmp_path, capsys):
    from dynamic_package import write_dynamic_package

    package = write_dynamic_package(tmp_path / "two.tar", inputs=2)
    np.savez(tmp_path / "in.npz", x=np.ones((3, 4), "float32"), y=np.ones((2, 4), "float32"))
    assert "could not be run" in failure(capsys, package, "-i", tmp_path / "in.npz", *tracked)
    np.savez(tmp_path / "in.npz", x=np.ones((3, 4), "float32"), y=np.ones((3, 4), "float32"))
    assert run(package, "-i", tmp_path / "in.npz", *tracked) == 0  # the board is free again


def test_a_library_for_another_processor(package, tracked, tmp_path, capsys):
    opened = open_package(package)
    library = opened.folder / "lib.so"
    content = bytearray(library.read_bytes())
    content[18] = 0xF3  # of the ELF header: the machine is a RISC-V
    library.write_bytes(content)
    foreign = with_metadata(opened, tmp_path / "foreign.tar")
    assert "could not load lib.so" in failure(capsys, foreign, *tracked)


def test_keys_that_no_board_has(package, ports, capsys):
    told = failure(capsys, package, "--rpc-tracker", f"127.0.0.1:{ports[0]}", "--rpc-key", "test-bord")
    assert "Did you mean test-board?" in told
    assert f"rpc_server --tracker 127.0.0.1:{ports[0]} --key test-bord" in told


def test_a_tracker_that_is_taken_for_a_board_and_the_other_way_round(package, ports, capsys):
    assert "If it is a tracker, name" in failure(capsys, package, "--rpc-tracker", f"127.0.0.1:{ports[0]}")
    told = failure(capsys, package, "--rpc-tracker", f"127.0.0.1:{ports[1]}", "--rpc-key", KEY)
    assert f"127.0.0.1:{ports[1]} is no RPC tracker of TVM" in told


@pytest.mark.parametrize("key", [[], ["--rpc-key", KEY]])
def test_nobody_listens(package, key, capsys):
    with listener() as port:
        pass
    assert f"Nothing answers at 127.0.0.1:{port}" in failure(
        capsys, package, "--rpc-tracker", f"127.0.0.1:{port}", *key
    )


@pytest.mark.parametrize("key", [[], ["--rpc-key", KEY]])
def test_somebody_listens_and_says_nothing(package, key, monkeypatch, capsys):
    monkeypatch.setattr(tracker, "_ANSWER_SECONDS", 0.2)
    monkeypatch.setattr(sessions, "CONNECT_SECONDS", 0.2)
    with listener() as port:
        told = failure(capsys, package, "--rpc-tracker", f"127.0.0.1:{port}", *key)
    assert "did not answer within 0.2 s" in told


@pytest.mark.parametrize("key", [[], ["--rpc-key", KEY]])
def test_there_is_no_such_host(package, key, capsys):
    assert "There is no host 'no-board.invalid'" in failure(capsys, package, "--rpc-tracker", "no-board.invalid", *key)


@contextmanager
def listener():
    """A socket that accepts connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]
