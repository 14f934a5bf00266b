"""Trackers that are not there or are something else."""

import socket
import threading

import pytest

from cospipe.backends.tvm.farm.tracker import Tracker, parse_address
from cospipe.ir.errors import RemoteError, UsageError


def test_addresses_are_read():
    assert parse_address("farm") == ("farm", 9190)
    assert parse_address("farm", 9090) == ("farm", 9090)
    assert parse_address("10.0.0.7:9191") == ("10.0.0.7", 9191)
    assert parse_address("[fe80::1]:9191") == ("fe80::1", 9191)


@pytest.mark.parametrize("text", ["", ":9190", "farm:", "farm:port", "farm:0", "farm:70000"])
def test_what_is_no_address(text):
    with pytest.raises(UsageError, match="write HOST or HOST:PORT"):
        parse_address(text)


def test_nobody_listens():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(RemoteError, match=rf"Nothing answers at 127\.0\.0\.1:{port}.*rpc_tracker"):
        Tracker("127.0.0.1", port, "k").boards()


@pytest.mark.parametrize(("answer", "problem"), [(b"HTTP", "it greets otherwise"), (b"", "is no RPC tracker of TVM")])
def test_something_else_listens(answer, problem):
    with socket.create_server(("127.0.0.1", 0)) as server:

        def reply():
            connection, _ = server.accept()
            with connection:
                connection.recv(4)
                connection.sendall(answer)

        threading.Thread(target=reply, daemon=True).start()
        with pytest.raises(RemoteError, match=problem):
            Tracker(*server.getsockname(), "k").boards()
