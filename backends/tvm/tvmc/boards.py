"""Boards behind TVM's RPC, for ``tvmc run``: one that a tracker hands out, or a server that is named itself."""

from __future__ import annotations

import logging
import socket
from dataclasses import dataclass
from typing import Any

from cospipe.backends.tvm.own_thread import in_own_thread
from cospipe.backends.tvm.tvmc.run_sessions import BoardSession
from cospipe.ir.errors import RemoteError, UsageError, first_line, nearest

DEFAULT_PORT = 9090
_ANSWER_S = 20.0
_FREE_BOARD_S = 1000.0
_SESSION_S = 1000
"""A server ends a session after that, so that nobody blocks a shared board for ever; tvmc has always asked for it."""
_LAST_PORT = 65535

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Board:
    """Where a board is found.

    Parameters
    ----------
    host : str
        Name or address of the tracker, or of the board itself.
    port : int
        Where it listens.
    key : str, optional
        Key that the tracker has the board under; without one, ``host`` is the board.
    """

    host: str
    port: int = DEFAULT_PORT
    key: str | None = None

    @property
    def address(self) -> str:
        """Host and port as one text."""
        return f"{self.host}:{self.port}"


def parse_board(text: str, key: str | None) -> Board:
    """Read ``HOST[:PORT]``; IPv6 addresses stand in brackets, ``[::1]:9190``.

    Raises
    ------
    UsageError
        When there is no host, or the port is no number from 1 to 65535.
    """
    bare = text.strip().removeprefix("//")
    host, colon, port = bare.rpartition(":")
    if not colon or bare.endswith("]"):
        host, port = bare, str(DEFAULT_PORT)
    host = host.removeprefix("[").removesuffix("]")
    if not host or not port.isdecimal() or not 0 < int(port) <= _LAST_PORT:
        raise UsageError(f"--rpc-tracker takes HOST or HOST:PORT with a port from 1 to {_LAST_PORT}, not {text!r}.")
    return Board(host, int(port), key)


def connect(board: Board) -> BoardSession:
    """Connect to a board; wait for it while others use it.

    Raises
    ------
    RemoteError
        When nothing answers there, or no board has the key.
    """
    if board.key:
        return _request(board, board.key)
    return BoardSession(_connect_directly(board), board.address)


def _connect_directly(board: Board) -> Any:
    from tvm import rpc

    try:
        return in_own_thread(lambda: rpc.connect(board.host, board.port), "rpc-connect", _ANSWER_S)
    except TimeoutError as error:
        raise RemoteError(
            f"{board.address} accepts connections but did not answer within {_ANSWER_S:g} s; TVM's RPC server serves"
            " one client at a time. Wait for the other one, and if this is a tracker, give a board's key by --rpc-key."
        ) from error
    except Exception as error:
        raise RemoteError(_connection_problem(board, str(error))) from error


def _connection_problem(board: Board, message: str) -> str:
    if "matches key" in message:
        return f"The RPC server at {board.address} was started with a key; it can be reached through its tracker only."
    if "obtain address" in message:
        return f"There is no host {board.host!r}; check what --rpc-tracker was given."
    if "Connect to" in message:
        return (
            f"Nothing answers at {board.address}; start a server on the board:"
            f" python -m tvm.exec.rpc_server --port {board.port}"
        )
    return (
        f"What answers at {board.address} is no RPC server of this TVM; if it is a tracker, give a board's key by"
        " --rpc-key."
    )


def _request(board: Board, key: str) -> BoardSession:
    """Ask a tracker for a board."""
    tracker = _open_tracker(board)
    summary = _ask(board, tracker.summary)
    keys = sorted({str(server["key"]).removeprefix("server:") for server in summary["server_info"]})
    if key not in keys:
        raise RemoteError(
            f"The tracker at {board.address} has no board with the key {key!r}."
            f" {nearest(key, keys) if keys else 'It has no boards at all.'} Boards join it by:"
            f" python -m tvm.exec.rpc_server --tracker {board.address} --key {key}"
        )
    if not summary["queue_info"].get(key, {}).get("free"):
        _log.warning("All boards with the key %s are in use; waiting for one.", key)
    try:
        session = in_own_thread(lambda: tracker.request(key, session_timeout=_SESSION_S), "rpc-request", _FREE_BOARD_S)
    except TimeoutError as error:
        raise RemoteError(f"No board with the key {key!r} became free within {_FREE_BOARD_S:g} s.") from error
    except Exception as error:
        raise RemoteError(f"The tracker at {board.address} gave no board that answers: {first_line(error)}.") from error
    return BoardSession(session, f"{board.address} with the key {key}")


def _open_tracker(board: Board) -> Any:
    from tvm import rpc

    try:  # TVM itself would try again for a minute
        socket.create_connection((board.host, board.port), _ANSWER_S).close()
    except socket.gaierror as error:
        raise RemoteError(f"There is no host {board.host!r}; check what --rpc-tracker was given.") from error
    except OSError as error:
        raise RemoteError(
            f"Nothing answers at {board.address} ({error.strerror or error}); start a tracker there:"
            f" python -m tvm.exec.rpc_tracker --port {board.port}"
        ) from error
    return _ask(board, lambda: rpc.connect_tracker(board.host, board.port))


def _ask(board: Board, question: Any) -> Any:
    try:
        return in_own_thread(question, "rpc-tracker", _ANSWER_S)
    except TimeoutError as error:
        raise RemoteError(f"The tracker at {board.address} did not answer within {_ANSWER_S:g} s.") from error
    except Exception as error:
        raise RemoteError(f"{board.address} is no RPC tracker of TVM: {first_line(error)}.") from error
