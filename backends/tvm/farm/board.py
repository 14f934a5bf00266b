"""One board of a farm: what is known of it, and whether it gets work."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from statistics import median
from threading import Lock

from cospipe.backends.tvm.farm.requirement import BoardFacts
from cospipe.backends.tvm.farm.session_process import SessionProcess

_ENOUGH_TO_COMPARE = 3


@dataclass
class Board:
    """A board that the tracker gave us at least once.

    Parameters
    ----------
    address : str
        ``192.168.1.7:9090``.
    process : SessionProcess
        Speaks to it; ``lock`` is held meanwhile, because a server serves one client at a time.
    facts : BoardFacts or None
        What the probe found; None while it has to be probed.
    first_reference_us : float
        What its first probe measured; 0 before.
    cpu_ids : tuple of int
        Cores that jobs without cores of their own use.
    failures : int
        Jobs in succession that failed on it and are not at fault themselves, as far as is known.
    is_ready : bool
        Whether its process has started.
    is_gone : bool
        Whether the tracker lists it no more.
    left_out : str
        Why it gets no more work; empty when it does.
    """

    address: str
    process: SessionProcess
    lock: Lock = field(default_factory=Lock)
    facts: BoardFacts | None = None
    first_reference_us: float = 0.0
    cpu_ids: tuple[int, ...] = ()
    failures: int = 0
    is_ready: bool = False
    is_gone: bool = False
    left_out: str = ""

    @property
    def name(self) -> str:
        """Its address, and what it says it is."""
        return f"{self.address} ({self.facts.name})" if self.facts and self.facts.name else self.address


def slow_boards(boards: Collection[Board], slowdown: float) -> dict[str, str]:
    """Return the boards that are much slower than they were, or than boards of their key usually are, and how slow.

    Parameters
    ----------
    boards : collection of Board
        All that were probed and get work.
    slowdown : float
        How many times the usual time is too slow.
    """
    times_us = {board.address: board.facts.reference_us for board in boards if board.facts}
    usual_us = median(times_us.values()) if len(times_us) >= _ENOUGH_TO_COMPARE else float("inf")
    found = {}
    for board in boards:
        time_us = times_us.get(board.address, 0.0)
        if time_us > slowdown * usual_us:
            found[board.address] = _too_slow(time_us, usual_us, "boards of this key take")
        elif time_us > slowdown * board.first_reference_us:
            found[board.address] = _too_slow(time_us, board.first_reference_us, "it took at first")
    return found


def _too_slow(time_us: float, usual_us: float, whose: str) -> str:
    return f"it is too slow: a fixed piece of arithmetic takes {time_us:,.0f} us, {whose} {usual_us:,.0f} us"
