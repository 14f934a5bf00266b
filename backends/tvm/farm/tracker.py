"""A client of TVM's tracker that learns which board it was given."""

from __future__ import annotations

import select
import socket
import struct
from dataclasses import dataclass
from typing import Any

from tvm.rpc import base

from cospipe.ir.errors import RemoteError, UsageError, first_line

DEFAULT_PORT = 9190
_ANSWER_SECONDS = 10.0


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


def parse_tracker(text: str, default_port: int = DEFAULT_PORT) -> tuple[str, int]:
    """Read ``HOST`` or ``HOST:PORT``; a numeric IPv6 address stands in brackets when a port follows.

    Raises
    ------
    UsageError
        When it is neither.
    """
    host, colon, port = text.rpartition(":") if ":" in text else (text, "", "")
    if not host or (colon and not (port.isdecimal() and 0 < int(port) < 65536)):
        raise UsageError(f"{text!r} is no address of a tracker; write HOST or HOST:PORT, for example farm:9190.")
    return host.strip("[]"), int(port) if colon else default_port


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
        with self._connect() as connection:
            status = self._ask(connection, [base.TrackerCode.SUMMARY])
        wanted = f"server:{self.key}"
        return frozenset(f"{s['addr'][0]}:{s['addr'][1]}" for s in status["server_info"] if s["key"] == wanted)

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

    def _connect(self) -> socket.socket:
        try:
            connection = socket.create_connection((self._host, self._port), _ANSWER_SECONDS)
        except OSError as error:
            raise RemoteError(
                f"No tracker answers at {self.address} ({first_line(error)}); start one:"
                f" python -m tvm.exec.rpc_tracker --host 0.0.0.0 --port {self._port}"
            ) from error
        try:
            connection.sendall(struct.pack("<i", base.RPC_TRACKER_MAGIC))
            (magic,) = struct.unpack("<i", base.recvall(connection, 4))
        except OSError as error:
            connection.close()
            raise self._is_no_tracker(error) from error
        if magic != base.RPC_TRACKER_MAGIC:
            connection.close()
            raise RemoteError(f"What listens at {self.address} is no tracker of TVM; is that an RPC server's port?")
        return connection

    def _ask(self, connection: socket.socket, message: list[Any]) -> Any:
        self._send(connection, message)
        return self._receive(connection)

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
        return RemoteError(
            f"The tracker at {self.address} does not answer as one ({first_line(error)}); start it again."
        )
