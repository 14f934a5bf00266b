"""A client of TVM's tracker that learns which board it was given, and where trackers and boards are found."""

from __future__ import annotations

import select
import socket
import struct
from dataclasses import dataclass
from typing import Any

from tvm.rpc import base

from cospipe.ir.errors import RemoteError, UsageError, first_line

DEFAULT_PORT = 9190
_SERVER = "server:"
_ANSWER_SECONDS = 10.0
_LAST_PORT = 65535


@dataclass(frozen=True)
class Offer:
    """One connection to a board; the match key is good for a single one."""

    host: str
    port: int
    match_key: str

    @property
    def board(self) -> str:
        """What the board is called in reports: its address."""
        return f"{self.host}:{self.port}"


def parse_address(text: str, default_port: int = DEFAULT_PORT) -> tuple[str, int]:
    """Read where a tracker or a board listens: ``HOST`` or ``HOST:PORT``; IPv6 addresses stand in brackets, ``[::1]``.

    Raises
    ------
    UsageError
        When there is no host, or the port is no number from 1 to 65535.
    """
    bare = text.strip().removeprefix("//")
    host, colon, port = bare.rpartition(":")
    if not colon or bare.endswith("]"):
        host, port = bare, str(default_port)
    host = host.removeprefix("[").removesuffix("]")
    if not host or not port.isdecimal() or not 0 < int(port) <= _LAST_PORT:
        raise UsageError(
            f"{text!r} is no address; write HOST or HOST:PORT with a port from 1 to {_LAST_PORT}, as in farm:9190."
        )
    return host, int(port)


class Tracker:
    """A tracker, asked for boards of one key.

    A request stays with the tracker until a board is free, so that nobody overtakes it.

    Parameters
    ----------
    host : str
        Where the tracker runs.
    port : int
        Its port.
    key : str
        What the boards that may be used were started with.
    """

    def __init__(self, host: str, port: int, key: str) -> None:
        self.address, self.key = f"{host}:{port}", key
        self._host, self._port = host, port
        self._request: socket.socket | None = None

    def boards(self) -> frozenset[str]:
        """Return the addresses of all boards with this key, whether they are free or not.

        Raises
        ------
        RemoteError
            When no tracker answers.
        """
        servers = (server for server in self._servers() if server["key"] == f"{_SERVER}{self.key}")
        return frozenset(f"{server['addr'][0]}:{server['addr'][1]}" for server in servers)

    def keys(self) -> list[str]:
        """Return the keys of all boards, sorted.

        Raises
        ------
        RemoteError
            When no tracker answers.
        """
        return sorted({server["key"].removeprefix(_SERVER) for server in self._servers()})

    def wait_for_offer(self, seconds: float) -> Offer | None:
        """Return a free board; None when none became free in this time, then the next call waits on.

        Raises
        ------
        RemoteError
            When no tracker answers.
        """
        if self._request is None:
            self._request = self._connect()
            self._send(self._request, [base.TrackerCode.REQUEST, self.key, "", 1])
        if not select.select([self._request], [], [], seconds)[0]:
            return None
        try:
            host, port, match_key = self._receive(self._request)
        finally:
            self.withdraw()
        return Offer(host, port, match_key)

    def withdraw(self) -> None:
        """Want no board any more."""
        if self._request is not None:
            self._request.close()
            self._request = None

    def _servers(self) -> list[dict[str, Any]]:
        with self._connect() as connection:
            self._send(connection, [base.TrackerCode.SUMMARY])
            servers: list[dict[str, Any]] = self._receive(connection)["server_info"]
        return servers

    def _connect(self) -> socket.socket:
        try:
            connection = socket.create_connection((self._host, self._port), _ANSWER_SECONDS)
        except socket.gaierror as error:
            raise RemoteError(f"There is no host {self._host!r}; check the tracker's name.") from error
        except OSError as error:
            raise RemoteError(
                f"Nothing answers at {self.address} ({first_line(error)}); start a tracker there:"
                f" python -m tvm.exec.rpc_tracker --host 0.0.0.0 --port {self._port}"
            ) from error
        try:
            self._greet(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _greet(self, connection: socket.socket) -> None:
        try:
            connection.sendall(struct.pack("<i", base.RPC_TRACKER_MAGIC))
            (magic,) = struct.unpack("<i", base.recvall(connection, 4))
        except OSError as error:
            raise self._is_no_tracker(error) from error
        if magic != base.RPC_TRACKER_MAGIC:
            raise self._is_no_tracker(ValueError("it greets otherwise"))

    def _send(self, connection: socket.socket, message: list[Any]) -> None:
        try:
            base.sendjson(connection, message)
        except OSError as error:
            raise self._is_no_tracker(error) from error

    def _receive(self, connection: socket.socket) -> Any:
        try:
            code, answer = base.recvjson(connection)
        except (OSError, ValueError) as error:
            raise self._is_no_tracker(error) from error
        if code != base.TrackerCode.SUCCESS:
            raise RemoteError(f"The tracker at {self.address} refuses: {answer}.")
        return answer

    def _is_no_tracker(self, error: Exception) -> RemoteError:
        if isinstance(error, TimeoutError):
            return RemoteError(f"The tracker at {self.address} did not answer within {_ANSWER_SECONDS:g} s.")
        return RemoteError(
            f"What listens at {self.address} is no RPC tracker of TVM ({first_line(error)}); start one, or give the"
            " port of one. An RPC server is none."
        )
