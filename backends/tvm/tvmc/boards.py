"""Boards behind TVM's RPC, for ``tvmc run``: one that a tracker hands out, or a server that is named itself."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cospipe.backends.tvm.tvmc.run_sessions import BoardSession
from cospipe.ir.errors import RemoteError, nearest

if TYPE_CHECKING:
    from cospipe.backends.tvm.farm.tracker import Offer

DEFAULT_PORT = 9090
_FREE_BOARD_S = 1000.0
_ONE_IS_FREE_S = 0.5
_SESSION_S = 1000
"""A server ends a session after that, so that nobody blocks a shared board for ever; tvmc has always asked for it."""

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
    """Read ``HOST[:PORT]``, of a tracker where there is a key; IPv6 addresses stand in brackets, ``[::1]:9190``.

    Raises
    ------
    UsageError
        When there is no host, or the port is no number from 1 to 65535.
    """
    from cospipe.backends.tvm.farm.tracker import parse_address

    return Board(*parse_address(text, DEFAULT_PORT), key)


def connect(board: Board) -> BoardSession:
    """Connect to a board; wait for it while others use it.

    Raises
    ------
    RemoteError
        When nothing answers there, or no board has the key.
    """
    from cospipe.backends.tvm.sessions import RemoteSession

    if not board.key:
        return BoardSession(RemoteSession(board.host, board.port, "").rpc, board.address)
    offer = _request(board, board.key)
    session = RemoteSession(offer.host, offer.port, offer.match_key, _SESSION_S)
    return BoardSession(session.rpc, f"{offer.board} (with the key {board.key})")


def _request(board: Board, key: str) -> Offer:
    """Ask a tracker for a board."""
    from cospipe.backends.tvm.farm.tracker import Tracker

    tracker = Tracker(board.host, board.port, key)
    keys = tracker.keys()
    if key not in keys:
        raise RemoteError(
            f"The tracker at {board.address} has no board with the key {key!r}."
            f" {nearest(key, keys) if keys else 'It has no boards at all.'} Boards join it by:"
            f" python -m tvm.exec.rpc_server --tracker {board.address} --key {key}"
        )
    if offer := tracker.wait_for_offer(_ONE_IS_FREE_S):
        return offer
    _log.warning("All boards with the key %s are in use; waiting for one.", key)
    if offer := tracker.wait_for_offer(_FREE_BOARD_S):
        return offer
    tracker.withdraw()
    raise RemoteError(f"No board with the key {key!r} became free within {_FREE_BOARD_S:g} s.")
