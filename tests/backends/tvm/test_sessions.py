"""Connecting to boards that are not there, have another key, or say nothing."""

import re
import socket

import pytest

from cospipe.backends.tvm import sessions
from cospipe.backends.tvm.sessions import RemoteSession
from cospipe.ir.errors import RemoteError


@pytest.fixture
def listener():
    """A socket that accepts connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


def test_nobody_listens(listener):
    port = listener.getsockname()[1]
    listener.close()
    with pytest.raises(RemoteError, match=rf"Nothing answers at 127\.0\.0\.1:{port}.*rpc_server --port {port} --key k"):
        RemoteSession("127.0.0.1", port, "k")


def test_there_is_no_such_host():
    with pytest.raises(RemoteError, match=re.escape("There is no host 'no-such-board.invalid'")):
        RemoteSession("no-such-board.invalid", 9090, "k")


def test_a_server_that_says_nothing(listener, monkeypatch):
    monkeypatch.setattr(sessions, "CONNECT_SECONDS", 0.2)
    with pytest.raises(RemoteError, match=r"did not answer within 0\.2 s; TVM's RPC server serves one"):
        RemoteSession("127.0.0.1", listener.getsockname()[1], "k")
